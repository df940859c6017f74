"""Steps that kernels write in place, one after the other: what the states' memory was like is not asked anew.

A decode step of eight sequences touches hundreds of states, and asking each of them took a tenth of the step (LOG.md).
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from .kv import AttentionState

__all__ = ["held_tokens", "room", "untouched", "wrote"]


def untouched(states: Sequence[Any], node: mx.array) -> bool:
    """Whether all are plain attention states without a window whose tokens `node` wrote last, in place."""
    if not all(issubclass(kind, AttentionState) for kind in {s.__class__ for s in states}):
        return False
    return all(
        s._keys._written is node and s._values._written is node and s.bits is None and s.window is None for s in states
    )


def held_tokens(states: Sequence[AttentionState]) -> tuple[list[Any], list[Any], list[int]]:
    """The memory of keys, that of values, and the number of tokens in them, of `untouched` states."""
    return [s._keys._store for s in states], [s._values._store for s in states], [s._keys.length for s in states]


def room(stores: Sequence[Any], lengths: Sequence[int]) -> int:
    """Tokens that each of the stores still has room for."""
    return min(store.capacity - length for store, length in zip(stores, lengths, strict=True))


def wrote(states: Sequence[AttentionState], tokens: int, node: mx.array) -> None:
    """Counts `tokens` for each state, which `node` writes when it is evaluated."""
    for s in states:
        keys, values = s._keys, s._values
        keys.length += tokens
        values.length += tokens
        keys._written = values._written = node
        s._offset += tokens
