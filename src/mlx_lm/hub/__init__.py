"""Names -> verified files and weights: local folders, the Hugging Face hub, packaged models, safetensors, GGUF.

Contract: importing this room loads neither MLX, numpy nor huggingface_hub, and its own modules only when one of the
names below is used. It knows nothing of model classes.
"""

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_lm.hub.cache import CacheEntry, delete, find, inspect, scan
    from mlx_lm.hub.config import read_config
    from mlx_lm.hub.gguf_load import load_gguf, load_gguf_config
    from mlx_lm.hub.identity import fingerprint
    from mlx_lm.hub.locate import ModelFiles, default_model, resolve
    from mlx_lm.hub.packaged import PACKAGED, cache_root
    from mlx_lm.hub.safetensors import load_folder, load_safetensors, read_header

__all__ = [
    "PACKAGED",
    "CacheEntry",
    "ModelFiles",
    "cache_root",
    "default_model",
    "delete",
    "find",
    "fingerprint",
    "inspect",
    "load_folder",
    "load_gguf",
    "load_gguf_config",
    "load_safetensors",
    "read_config",
    "read_header",
    "resolve",
    "scan",
]

_HOMES = MappingProxyType(
    {
        "PACKAGED": "packaged",
        "CacheEntry": "cache",
        "ModelFiles": "locate",
        "cache_root": "packaged",
        "default_model": "locate",
        "delete": "cache",
        "find": "cache",
        "fingerprint": "identity",
        "inspect": "cache",
        "load_folder": "safetensors",
        "load_gguf": "gguf_load",
        "load_gguf_config": "gguf_load",
        "load_safetensors": "safetensors",
        "read_config": "config",
        "read_header": "safetensors",
        "resolve": "locate",
        "scan": "cache",
    }
)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"mlx_lm.hub.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'mlx_lm.hub' has no attribute {name!r}")
