"""Models for commands: the default one when none is named, progress, draft models, identity for saved caches."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import hub
from .app import no_collections
from .progress import Waiting

__all__ = ["Loaded", "load_draft", "load_model"]


@dataclass(frozen=True)
class Loaded:
    """A model, its tokenizer, the name it was asked for by, and the folder or GGUF file it came from."""

    model: Any
    tokenizer: Any
    name: str
    path: Path

    @property
    def fingerprint(self) -> str:
        """Identity of the weights."""
        return hub.fingerprint(self.path)


def load_model(name: str | None, *, adapter_path: str | None = None, trust_remote_code: bool = False) -> Loaded:
    """The model called `name`; None is the default model. Raises what `mlx_lm.load` raises."""
    if name is None:
        files = hub.default_model(check_config=_check)
    else:
        files = hub.resolve(name, trust_remote_code=trust_remote_code, check_config=_check)
    path = files.gguf or files.folder
    with Waiting(f"Loading {files.name}"), no_collections():
        from ..models.load import load_files

        model, tokenizer, _ = load_files(
            files, adapter_path=adapter_path, trust_remote_code=trust_remote_code, meanwhile=_import_rest
        )
    return Loaded(model, tokenizer, stable_name(files.name), path)


def load_draft(name: str | None, *, trust_remote_code: bool = False) -> Any:
    """The draft model, or None when none is named."""
    return None if name is None else load_model(name, trust_remote_code=trust_remote_code).model


def stable_name(name: str) -> str:
    """The name under which the model is found from any working folder."""
    path = Path(name).expanduser()
    return os.path.realpath(path) if path.exists() else name


def _import_rest() -> None:
    """What every command uses after loading. An import that fails here fails again there, where it is reported."""
    import jinja2

    from ..engine import api

    del jinja2, api


def _check(config: dict[str, Any]) -> None:
    """Refuses an unsupported model before its weights are fetched."""
    from ..models.registry import get_classes

    _, args_class = get_classes(config)
    args_class.from_dict(config)
