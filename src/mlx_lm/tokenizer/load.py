"""From a model folder to a `TokenizerWrapper`.

Contract: `load_tokenizer(folder)` reads tokenizer.json, else a SentencePiece or tiktoken vocabulary, else the slow
files of GPT-2 and Qwen2, and never runs code from the folder. What is left goes to transformers, if it is installed;
its remote code runs only with `trust_remote_code`. A missing, malformed or hostile file is a TokenizerError that
names the file.

This module does not download, and does not know models.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mlx_lm.errors import RemoteCodeError, TokenizerError
from mlx_lm.tokenizer.chat_template import find_templates
from mlx_lm.tokenizer.fast import SPECIAL_NAMES, FastTokenizer, max_length, side, token_text
from mlx_lm.tokenizer.source import Source, add_bos_eos, build
from mlx_lm.tokenizer.wrapper import TokenizerWrapper

__all__ = ["load_tokenizer", "read_eos_token_ids"]

MAX_JSON_BYTES = 512 * 2**20
_SLOW_BYTE_LEVEL = {"GPT2Tokenizer": "gpt-2", "CodeGenTokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}


def load_tokenizer(
    folder: str | Path,
    *,
    tokenizer_config: Mapping[str, Any] | None = None,
    eos_token_ids: int | Iterable[int] | None = None,
    trust_remote_code: bool = False,
    detokenizer_class: Callable[[Any], Any] | None = None,
) -> TokenizerWrapper:
    """Loads the tokenizer of a model folder.

    Args:
        folder: a local folder.
        tokenizer_config: overrides for tokenizer_config.json, e.g. `model_max_length`, `truncation_side`, `eos_token`.
        eos_token_ids: ids that end generation; None reads generation_config.json and config.json. The tokenizer's
            own `eos_token` always ends generation too.
        trust_remote_code: lets transformers run the folder's own code for tokenizers that nothing else can read.

    Raises:
        TokenizerError: a file is missing, malformed or of an unsupported kind.
        RemoteCodeError: only the folder's own code can read the tokenizer, and it is not trusted.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TokenizerError(f"{folder} is not a folder with a tokenizer.")
    overrides = dict(tokenizer_config or {})
    trust_remote_code = bool(overrides.pop("trust_remote_code", False)) or trust_remote_code
    config = {**read_json(folder / "tokenizer_config.json"), **overrides}
    if eos_token_ids is None:
        eos_token_ids = read_eos_token_ids(folder)
    source = _read_source(folder, config)
    if source is None:
        inner = _load_transformers(folder, config, overrides, trust_remote_code)
    else:
        inner = _dress(
            source, folder, config, forced=not overrides.keys().isdisjoint(("add_bos_token", "add_eos_token"))
        )
    ids = {eos_token_ids} if isinstance(eos_token_ids, int) else set(eos_token_ids)
    if inner.eos_token_id is not None:
        ids.add(inner.eos_token_id)
    return TokenizerWrapper(inner, detokenizer_class, eos_token_ids=ids)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; {} when there is no such file."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise TokenizerError(f"{path}: larger than 512 MiB.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, TokenizerError):
            raise
        raise TokenizerError(f"{path}: can't be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: must hold a JSON object.")
    return value


def read_eos_token_ids(folder: Path) -> set[int]:
    """`eos_token_id` of generation_config.json, else of config.json or its text_config; an empty set without any."""
    config = read_json(folder / "config.json")
    text = config.get("text_config")
    for source in (read_json(folder / "generation_config.json"), config, text if isinstance(text, dict) else {}):
        value = source.get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(index, int) and not isinstance(index, bool) and index >= 0 for index in ids):
            raise TokenizerError(f"{folder}: eos_token_id must be an id or a list of ids, not {value!r}.")
        return set(ids)
    return set()


def _read_source(folder: Path, config: Mapping[str, Any]) -> Source | None:
    """The vocabulary of the folder, or None when no reader of ours fits."""
    if (folder / "tokenizer.json").is_file():
        return Source(_read_tokenizer_json(folder / "tokenizer.json"))
    from mlx_lm.tokenizer.spm import is_sentencepiece, tokenizer_from_spm
    from mlx_lm.tokenizer.tiktoken_bpe import tokenizer_from_tekken, tokenizer_from_tiktoken

    names = ("tokenizer.model", "tiktoken.model", "spiece.model", "sentencepiece.bpe.model")
    for path in [*(folder / name for name in names), *sorted(folder.glob("*.tiktoken"))]:
        if path.is_file():
            if is_sentencepiece(path):
                return tokenizer_from_spm(path, config)
            return tokenizer_from_tiktoken(path, config)
    if (folder / "tekken.json").is_file():
        return tokenizer_from_tekken(folder / "tekken.json")
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        kind = _SLOW_BYTE_LEVEL.get(str(config.get("tokenizer_class", "GPT2Tokenizer")).removesuffix("Fast"))
        return _read_slow_files(folder, kind) if kind else None
    return None


def _read_tokenizer_json(path: Path) -> Any:
    from tokenizers import Tokenizer

    if path.stat().st_size > MAX_JSON_BYTES:
        raise TokenizerError(f"{path}: larger than 512 MiB.")
    return build(str(path), lambda: Tokenizer.from_file(str(path)))


def _read_slow_files(folder: Path, kind: str) -> Source:
    from mlx_lm.tokenizer.bytelevel import byte_level_bpe

    vocab = read_json(folder / "vocab.json")
    try:
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{folder / 'merges.txt'}: can't be read: {error}") from error
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    added = read_json(folder / "added_tokens.json")
    if not all(isinstance(index, int) and index >= 0 for index in (*vocab.values(), *added.values())):
        raise TokenizerError(f"{folder / 'vocab.json'}: ids must be numbers.")
    names = sorted(added, key=added.__getitem__)
    whole = [(name, False) for name in names]
    backend = byte_level_bpe({**vocab, **added}, merges, kind, str(folder / "vocab.json"), added=whole)
    end = {"eos_token": "<|endoftext|>"} if "<|endoftext|>" in vocab else {}
    return Source(backend, end)


def _dress(source: Source, folder: Path, config: Mapping[str, Any], forced: bool) -> FastTokenizer:
    """Adds what tokenizer_config.json says: special tokens, templates, limits.

    `forced`: the caller chose about BOS and EOS. Otherwise the rule in tokenizer.json wins over tokenizer_config.json.
    """
    backend = source.backend
    where = str(folder / "tokenizer_config.json")
    special_map = read_json(folder / "special_tokens_map.json")
    defaults = {**source.special, **special_map}
    special = {name: config[name] if name in config else defaults.get(name) for name in SPECIAL_NAMES}
    extra = config.get("additional_special_tokens") or config.get("extra_special_tokens")
    extra = list(extra.values()) if isinstance(extra, dict) else extra or special_map.get("additional_special_tokens")
    try:
        _add_tokens(backend, config.get("added_tokens_decoder") or {})
        special = {name: text for name, value in special.items() if (text := token_text(value)) is not None}
        tokenizer = FastTokenizer(
            backend,
            special=special,
            extra_special=extra or (),
            chat_templates=find_templates(folder, config),
            model_max_length=max_length(config.get("model_max_length")),
            truncation_side=side(config.get("truncation_side", "right")),
            padding_side=side(config.get("padding_side", "left")),
            name_or_path=str(folder),
            init_kwargs=config,
        )
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        if isinstance(error, TokenizerError):
            raise type(error)(f"{where}: {error}" if where not in str(error) else str(error)) from error
        raise TokenizerError(f"{where}: malformed: {error}") from error
    if forced or backend.post_processor is None:
        bos, eos = config.get("add_bos_token", source.add_bos), config.get("add_eos_token", source.add_eos)
        add_bos_eos(backend, tokenizer.special_tokens_map, bool(bos), bool(eos))
    return tokenizer


def _add_tokens(backend: Any, decoder: Mapping[str, Any]) -> None:
    """`added_tokens_decoder`: sets the flags of tokens, and appends new ones where the next id fits."""
    from tokenizers import AddedToken

    present = {index: token.content for index, token in backend.get_added_tokens_decoder().items()}
    for key in sorted(decoder, key=int):
        entry = decoder[key]
        content = entry["content"]
        known = backend.token_to_id(content)
        if present.get(int(key)) == content or (known is not None and known != int(key)):
            continue
        if known is None and backend.get_vocab_size(with_added_tokens=True) != int(key):
            continue  # an id that the vocabulary can't give: the token could never match its embedding
        flags = {name: bool(entry.get(name, False)) for name in ("lstrip", "rstrip", "single_word", "normalized")}
        token = AddedToken(content, special=bool(entry.get("special", False)), **flags)
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])


def _load_transformers(
    folder: Path, config: Mapping[str, Any], overrides: Mapping[str, Any], trust_remote_code: bool
) -> Any:
    """The last resort: transformers, explicitly without remote code unless it is trusted."""
    kind = config.get("tokenizer_class") or "unknown class"
    if config.get("auto_map") and not trust_remote_code:
        raise RemoteCodeError(
            f"{folder}: the tokenizer ({kind}) needs the model's own code. Read that code, then pass trust_remote_code."
        )
    if importlib.util.find_spec("transformers") is None:
        raise TokenizerError(
            f"{folder}: found no tokenizer.json, SentencePiece, tiktoken or byte-level vocabulary ({kind}). "
            "If the model has one of another kind, `pip install transformers` and try again."
        )
    from transformers import AutoTokenizer  # pyright: ignore[reportMissingImports]

    try:
        return AutoTokenizer.from_pretrained(str(folder), **overrides, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise TokenizerError(f"{folder}: transformers can't load the tokenizer ({kind}): {error}") from error
