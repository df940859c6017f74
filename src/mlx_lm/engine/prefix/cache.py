"""The prefix cache: what was computed for a beginning is not computed again, in memory and on disk.

All MLX work here runs on the engine's thread; the disk tier gets plain bytes and does its own writing. A hit gives the
states that a cold run would have, so on exact kernels the answer is bit-equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from ...errors import CacheMismatchError
from ...state import State
from .blocks import Payload, checkpoint, cut, needs_checkpoints, restore
from .index import BlockIndex
from .keys import BLOCK_TOKENS, chain

__all__ = ["Buffer", "DiskTier", "PrefixCache", "PrefixStats", "Reuse"]


@dataclass(frozen=True)
class Buffer:
    """One array's bytes as the disk tier takes and gives them; `dtype` as safetensors spells it."""

    dtype: str
    shape: tuple[int, ...]
    data: Any  # anything with the buffer protocol


class StoredBlock(Protocol):
    """A block read from disk."""

    arrays: Mapping[str, Any]
    meta: Mapping[str, Any]


class DiskTier(Protocol):
    """What the prefix cache needs of a disk store."""

    def contains(self, namespace: bytes, key: bytes) -> bool: ...

    def get(self, namespace: bytes, key: bytes) -> StoredBlock | None: ...

    def put(
        self, namespace: bytes, key: bytes, parent: bytes | None, arrays: Mapping[str, Any], meta: Mapping[str, Any]
    ) -> bool: ...


@dataclass
class PrefixStats:
    """Lookups, tokens asked for, tokens found in memory and on disk, blocks stored."""

    lookups: int = 0
    tokens: int = 0
    reused_tokens: int = 0
    disk_tokens: int = 0
    stored_blocks: int = 0


@dataclass(frozen=True)
class Reuse:
    """A lookup's result: the first `tokens` need not be computed."""

    tokens: int
    keys: tuple[bytes, ...]


class PrefixCache:
    """Blocks of computed prefixes, at most `budget` bytes in memory, and a disk tier behind them.

    Args:
        budget: bytes of memory.
        disk: where blocks outlive the process; None for memory only.
        disk_min_tokens: shorter prefixes are not written to disk.
    """

    def __init__(self, budget: int, disk: DiskTier | None = None, *, disk_min_tokens: int = BLOCK_TOKENS):
        self.index = BlockIndex(budget)
        self.disk = disk
        self.disk_min_tokens = disk_min_tokens
        self.stats = PrefixStats()

    def reuse(self, space: bytes, tokens: Sequence[int], states: Sequence[State]) -> Reuse:
        """Puts the longest known beginning of `tokens` into fresh `states`; always leaves a token to compute.

        `space` is the namespace: what computes. The longest prefix wins, wherever its blocks lie.
        """
        self.stats.lookups += 1
        self.stats.tokens += len(tokens)
        keys = chain(space, tokens[:-1])
        resumable = not needs_checkpoints(states)
        known = 0
        while known < len(keys) and self._known(space, keys[known]):
            known += 1
        while known:
            blocks, from_disk = self._collect(space, keys[:known], resumable)
            known = len(blocks)
            if not blocks:
                break
            try:
                restore(states, blocks)
            except CacheMismatchError:  # a block of another format under our key: as good as absent
                self.index.remove(keys[known - 1])
                break
            self.index.touch(keys[:known])
            self.stats.reused_tokens += known * BLOCK_TOKENS
            self.stats.disk_tokens += from_disk * BLOCK_TOKENS
            return Reuse(known * BLOCK_TOKENS, tuple(keys[:known]))
        return Reuse(0, ())

    def store(self, space: bytes, tokens: Sequence[int], states: Sequence[State], *, at: int | None = None) -> int:
        """Keeps the whole blocks of `tokens` that `states` hold; returns how many are new.

        States that forget are kept only when the states stand exactly at the end of a block: `at` says where they
        stand (default: their offset).
        """
        stands = max((s.offset for s in states), default=0) if at is None else at
        usable = min(len(tokens), stands) // BLOCK_TOKENS
        keys = chain(space, tokens[: usable * BLOCK_TOKENS])
        pages_only = not needs_checkpoints(states)
        new = 0
        for i, key in enumerate(keys):
            last = stands == (i + 1) * BLOCK_TOKENS
            complete = pages_only or last
            old = self.index.get(key)
            if old is not None and (old.complete or not complete):
                continue
            page = cut(states, i * BLOCK_TOKENS, (i + 1) * BLOCK_TOKENS) if old is None else old.payload
            payload = page if pages_only or not last else Payload(page.pages, page.fields, *checkpoint(states))
            mx.eval(list(payload.pages.values()), list((payload.checkpoint or {}).values()))
            parent = keys[i - 1] if i else None
            if not self.index.put(key, parent, payload, payload.nbytes, complete=complete):
                break
            new += 1
            self._write(space, key, parent, payload, complete, len(keys) * BLOCK_TOKENS)
        self.stats.stored_blocks += new
        return new

    def clear(self) -> None:
        """Forgets what is in memory."""
        self.index.clear()

    def check(self) -> None:
        """Raises AssertionError when the books do not balance."""
        self.index.check()

    def _known(self, space: bytes, key: bytes) -> bool:
        return key in self.index or (self.disk is not None and self.disk.contains(space, key))

    def _collect(self, space: bytes, keys: Sequence[bytes], resumable: bool) -> tuple[list[Payload], int]:
        """Payloads of the longest run of `keys` that can be resumed at its end, and how many came from disk."""
        blocks: list[Payload] = []
        disk: list[bool] = []
        good = 0
        for i, key in enumerate(keys):
            held = self.index.get(key)
            payload, complete = (held.payload, held.complete) if held is not None else self._read(space, key)
            # A block may be in memory without its checkpoint and on disk with it.
            if held is not None and not complete and i == len(keys) - 1 and self.disk is not None:
                stored, whole = self._read(space, key)
                payload, complete = (stored, True) if stored is not None and whole else (payload, complete)
            if payload is None:
                break
            if held is None:
                parent = keys[i - 1] if i else None
                self.index.put(key, parent, payload, payload.nbytes, complete=complete)
            blocks.append(payload)
            disk.append(held is None)
            if complete or resumable:
                good = i + 1
        return blocks[:good], sum(disk[:good])

    def _read(self, space: bytes, key: bytes) -> tuple[Payload | None, bool]:
        stored = None if self.disk is None else self.disk.get(space, key)
        if stored is None:
            return None, False
        try:
            arrays = {name: _to_array(buffer) for name, buffer in stored.arrays.items()}
            pages = {n.removeprefix("p."): a for n, a in arrays.items() if n.startswith("p.")}
            marks = {n.removeprefix("c."): a for n, a in arrays.items() if n.startswith("c.")}
            meta = stored.meta
            fields = meta["checkpoint_fields"]
            payload = Payload(pages, meta["fields"], None if fields is None else marks, fields)
            return payload, bool(meta["complete"])
        except (KeyError, TypeError, ValueError):
            return None, False

    def _write(
        self, space: bytes, key: bytes, parent: bytes | None, payload: Payload, complete: bool, tokens: int
    ) -> None:
        if self.disk is None or tokens < self.disk_min_tokens:
            return
        arrays = {f"p.{n}": _to_buffer(a) for n, a in payload.pages.items()}
        arrays |= {f"c.{n}": _to_buffer(a) for n, a in (payload.checkpoint or {}).items()}
        meta = {"fields": payload.fields, "checkpoint_fields": payload.checkpoint_fields, "complete": complete}
        self.disk.put(space, key, parent, arrays, meta)


_NAMES = {
    mx.float32: ("F32", np.float32),
    mx.float16: ("F16", np.float16),
    mx.bfloat16: ("BF16", np.uint16),
    mx.uint32: ("U32", np.uint32),
    mx.int32: ("I32", np.int32),
    mx.uint8: ("U8", np.uint8),
}
_DTYPES = {name: (dtype, plain) for dtype, (name, plain) in _NAMES.items()}


def _to_buffer(array: mx.array) -> Buffer:
    """The evaluated array's bytes, not copied; numpy has no bfloat16, so its bits go as uint16."""
    name, _ = _NAMES[array.dtype]
    plain = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    return Buffer(name, tuple(array.shape), np.array(plain, copy=False).data.cast("B"))


def _to_array(buffer: Any) -> mx.array:
    dtype, plain = _DTYPES[buffer.dtype]
    array = mx.array(np.frombuffer(buffer.data, plain).reshape(buffer.shape))
    return array.view(mx.bfloat16) if dtype == mx.bfloat16 else array
