"""Saving and loading the states of a sequence as one safetensors file, checked on load.

Format (version 2): arrays `<layer>.<name>`; metadata `mlx_lm.cache` with the version, each layer's class and fields,
and the caller's own string metadata beside it. The file is written beside its target and renamed, so a crash never
leaves half a file. The module does not know which model made the states; callers compare that.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..errors import CacheMismatchError
from .arrays import ArraysCache, CacheList
from .base import State
from .kv import AttentionState, KVCache, QuantizedKVCache, RotatingKVCache

__all__ = ["load_states", "pack_states", "save_states", "unpack_states"]

_VERSION = 2
_KEY = "mlx_lm.cache"
_CLASSES: dict[str, type[State]] = {
    c.__name__: c for c in (AttentionState, KVCache, RotatingKVCache, QuantizedKVCache, ArraysCache, CacheList)
}


def pack_states(states: Iterable[State]) -> tuple[dict[str, mx.array], dict[str, Any]]:
    """Arrays named `<index>.<name>` and JSON-able fields."""
    arrays: dict[str, mx.array] = {}
    layers = []
    for i, state in enumerate(states):
        held, fields = state.saved()
        arrays |= {f"{i}.{name}": array for name, array in held.items()}
        layers.append({"class": type(state).__name__, "fields": fields})
    return arrays, {"layers": layers}


def unpack_states(arrays: Mapping[str, mx.array], fields: Mapping[str, Any]) -> list[State]:
    """The inverse of `pack_states`; raises CacheMismatchError for content that does not fit."""
    try:
        layers = [(_CLASSES[layer["class"]], layer["fields"]) for layer in fields["layers"]]
    except (KeyError, TypeError) as error:
        raise CacheMismatchError(f"The saved prompt cache is malformed: {error!r}.") from error
    held: list[dict[str, mx.array]] = [{} for _ in layers]
    for name, array in arrays.items():
        index, _, rest = name.partition(".")
        if not index.isdigit() or int(index) >= len(layers):
            raise CacheMismatchError(f"The saved prompt cache is malformed: unexpected tensor {name!r}.")
        held[int(index)][rest] = array
    return [cls.load(mine, layer) for (cls, layer), mine in zip(layers, held, strict=True)]


def save_states(file: str | Path, states: Sequence[State], metadata: Mapping[str, str] | None = None) -> None:
    """Writes the states of one sequence to `file`, atomically."""
    target = Path(file)
    arrays, fields = pack_states(states)
    text = dict(metadata or {})
    text[_KEY] = json.dumps({"version": _VERSION, **fields})
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp.safetensors")
    try:
        mx.save_safetensors(str(temporary), arrays, text)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def load_states(file: str | Path) -> tuple[list[State], dict[str, str]]:
    """Reads the states and the caller's metadata.

    Raises:
        ModelFileError: the file is truncated or malformed.
        CacheMismatchError: it is not a prompt cache, or of another format version.
    """
    from ..hub.safetensors import load_safetensors, read_header

    metadata = dict(read_header(Path(file)).metadata)
    try:
        fields = json.loads(metadata.pop(_KEY))
        version = fields["version"]
    except (KeyError, TypeError, ValueError) as error:
        raise CacheMismatchError(
            f"{file} is not a prompt cache of this version of mlx_lm; make it again with mlx_lm.cache_prompt."
        ) from error
    if version != _VERSION:
        raise CacheMismatchError(f"{file} has prompt-cache format {version}; this version reads {_VERSION}.")
    return unpack_states(load_safetensors(Path(file)), fields), metadata
