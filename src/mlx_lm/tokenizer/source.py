"""What every vocabulary reader returns: a `tokenizers.Tokenizer` and what the file says about special tokens.

Readers build the backend; `load.py` and `gguf.py` dress it. This module does not know file formats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_lm.errors import TokenizerError

__all__ = ["Source", "add_bos_eos", "build"]


@dataclass(frozen=True)
class Source:
    """A vocabulary as read from a file, before tokenizer_config.json is applied."""

    backend: Any  # tokenizers.Tokenizer
    special: Mapping[str, str] = field(default_factory=dict)  # e.g. {"bos_token": "<s>"}
    add_bos: bool = False
    add_eos: bool = False


def build(where: str, make: Callable[[], Any]) -> Any:
    """Runs `make`, which calls into the tokenizers library, and turns what it raises into a TokenizerError.

    The library raises bare Exception, and its panics derive from BaseException.
    """
    try:
        return make()
    except (KeyboardInterrupt, SystemExit, GeneratorExit, TokenizerError):
        raise
    except BaseException as error:
        raise TokenizerError(f"{where}: the vocabulary is malformed: {error}") from error


def add_bos_eos(backend: Any, special: Mapping[str, str | None], bos: bool, eos: bool) -> None:
    """Makes `add_special_tokens=True` put the BOS before and the EOS after the text, and nothing else."""
    from tokenizers.processors import TemplateProcessing

    wanted = {"bos_token": bos, "eos_token": eos}
    ids = {name: backend.token_to_id(special.get(name) or "") for name in wanted}
    before, after = [[str(special[name])] if wanted[name] and ids[name] is not None else [] for name in wanted]
    if not before and not after and backend.post_processor is None:
        return
    second = [f"{text}:1" for text in before], [f"{text}:1" for text in after]
    backend.post_processor = TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *second[0], "$B:1", *second[1]],
        special_tokens=[(text, backend.token_to_id(text)) for text in dict.fromkeys([*before, *after])],
    )
