"""Which models `llm` is offered: registered ones with their aliases, those of the Hugging Face cache, packaged ones.

Registered models stand in `llm-mlx.json` in llm's folder, the file that llm-mlx keeps: {model: {"aliases": [...]}}.
Cached models count when they are complete and of a family that exists here. Loads no weights and, when nothing is
cached, no MLX.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..hub import cache
from ..hub.packaged_table import PACKAGED

__all__ = ["available", "cached_models", "read_registered", "registered_file", "write_registered"]


def registered_file() -> Path:
    """The file of registered models; an empty one is made where there is none."""
    import llm  # type: ignore[import-not-found]

    path = llm.user_dir() / "llm-mlx.json"
    if not path.exists():
        path.write_text("{}", encoding="utf-8")
    return path


def read_registered() -> dict[str, dict[str, Any]]:
    """Registered models. Raises ConfigError for a file that is not of that form."""
    path = registered_file()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise ConfigError(f'{path} must hold an object {{model: {{"aliases": [...]}}}}.')
    return found


def write_registered(models: Mapping[str, Any]) -> None:
    """Replaces the file as a whole."""
    path = registered_file()
    new = path.with_suffix(".json.new")
    new.write_text(json.dumps(models, indent=2), encoding="utf-8")
    new.replace(path)


def cached_models() -> list[Any]:
    """`CacheEntry` of the models of the Hugging Face cache that can write text here, by name."""
    entries = [entry for entry in cache.scan() if entry.source == "hub" and entry.complete]
    if not entries:
        return []
    from ..models.registry import MODEL_REMAPPING, families

    known = {*families(), *MODEL_REMAPPING}
    return [entry for entry in entries if _model_type(entry.folder) in known]


def _model_type(folder: Path) -> str:
    """The family of a folder, as its file is named; a GGUF file alone counts as llama, and tells when it is loaded."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except FileNotFoundError:
        return "llama"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return found.replace("-", "_") if isinstance(found, str) and found != "openai-gpt" else str(found)


def available() -> dict[str, Sequence[str]]:
    """Every model and its aliases."""
    models: dict[str, Sequence[str]] = {name: () for name in PACKAGED}
    models |= {entry.name: () for entry in cached_models()}
    return models | {name: tuple(entry.get("aliases", ())) for name, entry in read_registered().items()}
