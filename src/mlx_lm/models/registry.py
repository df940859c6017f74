"""`model_type` -> the family's module. Nothing outside `models/` tests a model's name."""

import difflib
import importlib
import pkgutil
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ..errors import UnsupportedModelError

__all__ = ["MODEL_REMAPPING", "families", "family", "get_classes"]

# Types that are another family's computation under a new name.
MODEL_REMAPPING: dict[str, str] = {
    "gpt-sw3": "gpt2",
    "ministral": "mistral",
    "openai-gpt": "openai_gpt",
}

_INFRASTRUCTURE = {
    "adapters",
    "base",
    "build",
    "cache",
    "config",
    "dense",
    "describe",
    "experts",
    "formats",
    "json_types",
    "load",
    "multimodal",
    "parts",
    "per_layer",
    "positions",
    "registry",
    "spellings",
    "weights",
}


def families() -> list[str]:
    """Model types that have a family file, sorted."""
    package = importlib.import_module(__package__ or "mlx_lm.models")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name not in _INFRASTRUCTURE)


def family(model_type: str) -> ModuleType:
    """The family's module, which has `Model` and `ModelArgs`.

    Raises:
        UnsupportedModelError: the type is not known; the message names the nearest one.
    """
    name = MODEL_REMAPPING.get(model_type, model_type)
    if re.fullmatch(r"[A-Za-z0-9_\-]+", name) and name not in _INFRASTRUCTURE:
        full = f"{__package__}.{name.replace('-', '_')}"
        try:
            return importlib.import_module(full)
        except ModuleNotFoundError as error:
            if error.name != full:
                raise
    near = difflib.get_close_matches(model_type, [*families(), *MODEL_REMAPPING], n=3, cutoff=0.5)
    hint = f" The nearest known: {', '.join(near)}." if near else ""
    raise UnsupportedModelError(f"Model type {model_type!r} is not supported.{hint}")


def get_classes(config: Mapping[str, Any]) -> tuple[type, type]:
    """`Model` and `ModelArgs` for a config."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise UnsupportedModelError("config.json has no model_type.")
    module = family(model_type)
    return module.Model, module.ModelArgs
