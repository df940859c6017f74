"""Text generation, serving and quantization of language models on MLX.

Importing the package is light: names are looked up when they are first used.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .integrations import mask_kernels as _mask_kernels

if importlib.util.find_spec("mlx") is None:
    raise ImportError(
        "mlx_lm needs MLX. On macOS: pip install mlx-lm. On Linux choose a build: pip install 'mlx-lm[cpu]', "
        "'mlx-lm[cuda12]' or 'mlx-lm[cuda13]'."
    )

if TYPE_CHECKING:
    from .engine import batch_generate, generate, generate_step, stream_generate
    from .grammar import CFG, Choice, JsonSchema, Regex, parse_output
    from .models.load import load
    from .quant import convert

__version__ = "1.0.0"
__all__ = [
    "CFG",
    "Choice",
    "JsonSchema",
    "Regex",
    "__version__",
    "batch_generate",
    "convert",
    "generate",
    "generate_step",
    "load",
    "parse_output",
    "stream_generate",
]

_HOMES = {
    "CFG": ".grammar",
    "Choice": ".grammar",
    "JsonSchema": ".grammar",
    "Regex": ".grammar",
    "batch_generate": ".engine",
    "convert": ".quant",
    "generate": ".engine",
    "generate_step": ".engine",
    "load": ".models.load",
    "parse_output": ".grammar",
    "stream_generate": ".engine",
}
_MODULES = {"errors", "grammar", "models", "sample_utils", "tokenizer_utils", "types", "utils"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name], __name__), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


class _Package(ModuleType):
    """`mlx_lm.generate` and `mlx_lm.convert` are functions, though modules of these names exist beside them."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

# Outlines' masks work on devices without Metal as soon as mlx_lm is imported, in whichever order.
_mask_kernels.install()
