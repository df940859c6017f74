"""Where mlx-lm's users import prompt caches from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.nn as nn

from ..state import (
    ArraysCache,
    CacheList,
    KVCache,
    KVOptions,
    QuantizedKVCache,
    RotatingKVCache,
    State,
    load_states,
    save_states,
)

__all__ = [
    "ArraysCache",
    "CacheList",
    "KVCache",
    "LRUPromptCache",  # noqa: F822
    "QuantizedKVCache",
    "RotatingKVCache",
    "can_trim_prompt_cache",
    "load_prompt_cache",
    "make_prompt_cache",
    "save_prompt_cache",
    "trim_prompt_cache",
]


def __getattr__(name: str) -> Any:
    # Its home is the engine, which is below this room; only this old public path may look there, and late.
    if name == "LRUPromptCache":
        from ..engine.lru import LRUPromptCache

        return LRUPromptCache
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def make_prompt_cache(model: nn.Module, max_kv_size: int | None = None) -> list[Any]:
    """Fresh states for one sequence; `max_kv_size` limits the tokens that attention layers keep, the first 4 always."""
    if hasattr(model, "state_specs"):
        return model.make_cache(KVOptions(max_size=max_kv_size))
    if hasattr(model, "make_cache"):
        return model.make_cache()
    make = KVCache if max_kv_size is None else lambda: RotatingKVCache(max_kv_size, keep=4)
    return [make() for _ in model.layers]  # type: ignore[union-attr]


def save_prompt_cache(file_name: str | Path, cache: Sequence[State], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a prompt cache as safetensors, atomically."""
    save_states(file_name, cache, metadata)


def load_prompt_cache(file_name: str | Path, return_metadata: bool = False) -> Any:
    """A saved prompt cache, or (cache, metadata); ModelFileError or CacheMismatchError when the file is not one."""
    states, metadata = load_states(file_name)
    return (states, metadata) if return_metadata else states


def can_trim_prompt_cache(cache: Sequence[State]) -> bool:
    """Whether all of the cache's tokens can be taken back."""
    return all(state.is_trimmable() for state in cache)


def trim_prompt_cache(cache: Sequence[State], num_tokens: int) -> int:
    """Takes back the last `num_tokens` and returns how many; 0 when some layer still needs them."""
    held = max((state.offset for state in cache), default=0)
    n = min(num_tokens, held)
    if n <= 0 or not all(state.can_trim(n) for state in cache):
        return 0
    for state in cache:
        state.trim(n)
    return n
