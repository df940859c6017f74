"""States of fixed size (recurrent matrices, convolution tails) and states made of several."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from ..errors import CacheMismatchError
from .base import PLAIN_KV, KVOptions, State, StateSpec

__all__ = ["ArraySlot", "ArraysCache", "CacheList", "ListSpec", "NoSpec", "RecurrentSpec"]


class ArraysCache(State):
    """`size` arrays that a recurrent layer replaces at each step; None until the first. No token can be taken back."""

    def __init__(self, size: int):
        self.cache: list[mx.array | None] = [None] * size
        self._offset = 0

    def __getitem__(self, index: int) -> mx.array | None:
        return self.cache[index]

    def __setitem__(self, index: int, value: mx.array) -> None:
        self.cache[index] = value

    def __len__(self) -> int:
        return len(self.cache)

    @property
    def offset(self) -> int:
        return self._offset

    def advance(self, tokens: int) -> None:
        """Counts `tokens` more tokens as seen."""
        self._offset += tokens

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.cache if a is not None)

    def snapshot(self) -> Any:
        return list(self.cache), self._offset

    def restore(self, mark: Any) -> None:
        cache, self._offset = mark
        self.cache = list(cache)

    def copy(self) -> "ArraysCache":
        new = ArraysCache(len(self.cache))
        new.restore(self.snapshot())
        return new

    def saved(self) -> tuple[dict[str, mx.array], dict[str, Any]]:
        arrays = {str(i): a for i, a in enumerate(self.cache) if a is not None}
        return arrays, {"size": len(self.cache), "offset": self._offset}

    @classmethod
    def load(cls, arrays: dict[str, mx.array], fields: dict[str, Any]) -> "ArraysCache":
        try:
            new = cls(int(fields["size"]))
            for key, array in arrays.items():
                new.cache[int(key)] = array
            new._offset = int(fields["offset"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CacheMismatchError(f"The saved recurrent state is malformed: {error!r}.") from error
        return new


class CacheList(State):
    """Several states of one layer, for layers that mix unlike mixers."""

    def __init__(self, *caches: State):
        self.caches = tuple(caches)

    def __getitem__(self, index: int) -> State:
        return self.caches[index]

    def __len__(self) -> int:
        return len(self.caches)

    def __iter__(self) -> Iterator[State]:
        return iter(self.caches)

    @property
    def offset(self) -> int:
        return max((c.offset for c in self.caches), default=0)

    @property
    def nbytes(self) -> int:
        return sum(c.nbytes for c in self.caches)

    def expect(self, tokens: int) -> None:
        for c in self.caches:
            c.expect(tokens)

    def size(self) -> int:
        return max((c.size() for c in self.caches), default=0)

    def can_trim(self, n: int) -> bool:
        return all(c.can_trim(n) for c in self.caches)

    def _trim(self, n: int) -> None:
        for c in self.caches:
            c.trim(n)

    def snapshot(self) -> Any:
        return [c.snapshot() for c in self.caches]

    def restore(self, mark: Any) -> None:
        for c, m in zip(self.caches, mark, strict=True):
            c.restore(m)

    def copy(self) -> "CacheList":
        return CacheList(*(c.copy() for c in self.caches))

    def saved(self) -> tuple[dict[str, mx.array], dict[str, Any]]:
        from .store import pack_states  # the store reads this class too

        return pack_states(self.caches)

    @classmethod
    def load(cls, arrays: dict[str, mx.array], fields: dict[str, Any]) -> "CacheList":
        from .store import unpack_states

        return cls(*unpack_states(arrays, fields))


@dataclass(frozen=True)
class ArraySlot:
    """One array of a recurrent state: its shape for one sequence, and its dtype (None: the model's)."""

    shape: tuple[int, ...]
    dtype: mx.Dtype | None = None

    def nbytes(self, dtype: mx.Dtype) -> int:
        size = 1
        for n in self.shape:
            size *= n
        return size * (self.dtype or dtype).size


@dataclass(frozen=True)
class RecurrentSpec(StateSpec):
    """Declared by layers whose memory does not grow."""

    slots: tuple[ArraySlot, ...]
    kind = "recurrent"
    trimmable = False
    quantizable = False
    evictable = False

    def create(self, options: KVOptions = PLAIN_KV) -> ArraysCache:
        return ArraysCache(len(self.slots))

    def mismatch(self, state: State) -> str | None:
        if not isinstance(state, ArraysCache) or len(state) != len(self.slots):
            return f"holds a {type(state).__name__}, not {len(self.slots)} recurrent arrays"
        for slot, array in zip(self.slots, state.cache, strict=True):
            if array is not None and tuple(array.shape[1:]) != slot.shape:
                return f"has a recurrent array of shape {tuple(array.shape[1:])}, not {slot.shape}"
        return None

    def bytes_per_token(self, dtype: mx.Dtype, options: KVOptions = PLAIN_KV) -> float:
        return 0.0

    def bytes_fixed(self, dtype: mx.Dtype, options: KVOptions = PLAIN_KV) -> int:
        return sum(slot.nbytes(dtype) for slot in self.slots)


@dataclass(frozen=True)
class NoSpec(StateSpec):
    """Declared by layers that keep nothing of their own (feed-forward only, or another layer's keys)."""

    kind = "none"
    trimmable = True
    quantizable = False
    evictable = True

    def create(self, options: KVOptions = PLAIN_KV) -> CacheList:
        return CacheList()

    def bytes_per_token(self, dtype: mx.Dtype, options: KVOptions = PLAIN_KV) -> float:
        return 0.0

    def bytes_fixed(self, dtype: mx.Dtype, options: KVOptions = PLAIN_KV) -> int:
        return 0


@dataclass(frozen=True)
class ListSpec(StateSpec):
    """Declared by layers with several states."""

    parts: tuple[StateSpec, ...]
    kind: str = field(default="list", init=False)  # type: ignore[misc]

    @property
    def trimmable(self) -> bool:  # type: ignore[override]
        return all(p.trimmable for p in self.parts)

    @property
    def quantizable(self) -> bool:  # type: ignore[override]
        return any(p.quantizable for p in self.parts)

    @property
    def evictable(self) -> bool:  # type: ignore[override]
        return all(p.evictable for p in self.parts)

    def create(self, options: KVOptions = PLAIN_KV) -> CacheList:
        return CacheList(*(p.create(options) for p in self.parts))

    def mismatch(self, state: State) -> str | None:
        if not isinstance(state, CacheList) or len(state) != len(self.parts):
            return f"holds a {type(state).__name__}, not {len(self.parts)} states"
        return next((m for p, s in zip(self.parts, state, strict=True) if (m := p.mismatch(s))), None)

    def bytes_per_token(self, dtype: mx.Dtype, options: KVOptions = PLAIN_KV) -> float:
        return sum(p.bytes_per_token(dtype, options) for p in self.parts)

    def bytes_fixed(self, dtype: mx.Dtype, options: KVOptions = PLAIN_KV) -> int:
        return sum(p.bytes_fixed(dtype, options) for p in self.parts)

    def bytes(self, tokens: int, dtype: mx.Dtype, options: KVOptions = PLAIN_KV) -> int:
        return sum(p.bytes(tokens, dtype, options) for p in self.parts)


def flatten(states: Iterable[State]) -> Iterator[State]:
    """The states with lists taken apart."""
    return itertools.chain.from_iterable(flatten(s) if isinstance(s, CacheList) else (s,) for s in states)
