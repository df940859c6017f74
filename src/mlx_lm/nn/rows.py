"""The rows of a batch in layers that attend row by row, and vectors that states keep in two halves.

Views have one item for all rows where one state holds them (or none), else one for each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import mlx.core as mx

from ..kernels import KVView
from ..state import PLAIN_KV, AttentionState, KVOptions, KVSpec, LayerState, State, attend_states

__all__ = [
    "EntrySpec", "OrderedSpec", "Position", "Views", "attend_vectors", "by_view", "extended", "halves", "joined",
    "row_of", "starts_of", "vectors_of",
]  # fmt: skip

Position: TypeAlias = int | mx.array
"""That of the first new token: one number, or (B,) where the rows differ."""

Views: TypeAlias = tuple[KVView, ...]


@dataclass(frozen=True)
class OrderedSpec(KVSpec):
    """Keys and values whose positions must be known: single tokens cannot be dropped."""

    evictable = False


@dataclass(frozen=True)
class EntrySpec(KVSpec):
    """One entry for `rate` tokens."""

    rate: int = 1
    evictable = False

    @property
    def trimmable(self) -> bool:  # type: ignore[override]
        return False

    def create(self, options: KVOptions = PLAIN_KV) -> AttentionState:
        return super().create(replace(options, max_size=None))

    def bytes_per_token(self, dtype: mx.Dtype, options: KVOptions = PLAIN_KV) -> float:
        return super().bytes_per_token(dtype, options) / self.rate


def row_of(count: int, index: int) -> slice:
    """The rows of the batch to which item `index` of `count` belongs."""
    return slice(None) if count == 1 else slice(index, index + 1)


def by_view(views: Views, position: Position, *arrays: mx.array | None) -> Iterator[tuple[Any, ...]]:
    """Each view with its first new position and its rows of `arrays` (B, ...)."""
    for i, view in enumerate(views):
        row = row_of(len(views), i)
        start = position if isinstance(position, int) else position[i]
        yield view, start, *(None if array is None else array[row] for array in arrays)


def starts_of(state: LayerState) -> list[int]:
    """The first new position of each item."""
    return [0 if one is None else one.offset for one in _items(state)]


def _items(state: LayerState) -> Sequence[State | None]:
    return [state] if state is None or isinstance(state, State) else state


def joined(parts: list[mx.array], axis: int = 0) -> mx.array:
    """The parts behind each other; a single one as it is."""
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=axis)


def halves(dim: int) -> tuple[int, int]:
    """Sizes of the "keys" and "values" as which vectors of `dim` features are kept."""
    return dim // 2, dim - dim // 2


def attend_vectors(state: LayerState, vectors: mx.array, window: int | None = None) -> Views:
    """As `attend_states`, for vectors (B, 1, L, D) that are kept in two halves."""
    first, second = mx.split(vectors, [vectors.shape[-1] // 2], axis=-1)
    return attend_states(state, first, second, window)


def vectors_of(view: KVView) -> mx.array:
    """The vectors (B, 1, T, D) of which a view holds the two halves."""
    return mx.concatenate(view.dense(), axis=-1)


def extended(state: LayerState, made: list[mx.array]) -> list[mx.array]:
    """Appends each item of new vectors (b, 1, n, D) to its state and gives all of them so far (b, 1, T, D)."""
    result = []
    for one, new in zip(_items(state), made, strict=True):
        if one is None or (one.empty() and not new.shape[2]):
            result.append(new)
        else:
            view = attend_vectors(one, new)[0] if new.shape[2] else one.view()  # type: ignore[attr-defined]
            result.append(vectors_of(view).astype(new.dtype))
    return result
