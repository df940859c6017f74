"""How a layer sees a batch: nothing, one state that holds all rows, or a list with one state for each row.

Rows are never padded, merged or copied: each state appends its own row and gives its own view.
"""

from collections.abc import Sequence
from typing import TypeAlias

import mlx.core as mx

from ..kernels import KVView
from .arrays import ArraysCache
from .base import State
from .kv import AttentionState

__all__ = ["LayerState", "attend_states", "gather_slot", "offsets", "part", "scatter_slots"]

LayerState: TypeAlias = State | Sequence[State] | None


def offsets(state: LayerState) -> int | mx.array:
    """The position of the first new token: one number, or (B,) where the rows differ."""
    if state is None:
        return 0
    if isinstance(state, State):
        return state.offset
    values = [s.offset for s in state]
    return values[0] if len(set(values)) == 1 else mx.array(values)


def attend_states(state: LayerState, keys: mx.array, values: mx.array, window: int | None = None) -> tuple[KVView, ...]:
    """Appends keys and values (B, Hkv, L, D) row by row and returns what the rows may look at.

    `window` is the layer's own; the narrower of it and a state's limit holds.
    """
    if state is None:
        return (KVView(keys, values, window),)
    if isinstance(state, State):
        return (_windowed(_attention(state).update(keys, values), window),)
    return tuple(
        _windowed(_attention(s).update(keys[i : i + 1], values[i : i + 1]), window) for i, s in enumerate(state)
    )


def part(state: LayerState, index: int) -> LayerState:
    """The states at `index` of layers that keep several."""
    if state is None:
        return None
    if isinstance(state, State):
        return state[index]  # type: ignore[index]
    return [s[index] for s in state]  # type: ignore[index]


def gather_slot(state: LayerState, slot: int) -> mx.array | None:
    """Array `slot` of a recurrent state for all rows, (B, ...), or None when the rows start from zeros."""
    if state is None:
        return None
    if isinstance(state, State):
        return _arrays(state)[slot]
    rows = [_arrays(s)[slot] for s in state]
    known = next((r for r in rows if r is not None), None)
    if known is None:
        return None
    return mx.concatenate([mx.zeros_like(known) if r is None else r for r in rows], axis=0)


def scatter_slots(state: LayerState, arrays: Sequence[mx.array], tokens: int) -> None:
    """Gives each row its part of the new arrays (B, ...) and counts `tokens` more tokens."""
    if state is None:
        return
    rows = [state] if isinstance(state, State) else state
    for i, row in enumerate(rows):
        cache = _arrays(row)
        for slot, array in enumerate(arrays):
            cache[slot] = array if len(rows) == 1 else array[i : i + 1]
        cache.advance(tokens)


def _windowed(view: KVView, window: int | None) -> KVView:
    if window is None or (view.window is not None and view.window <= window):
        return view
    return KVView(view.keys, view.values, window, 0)


def _attention(state: State) -> AttentionState:
    assert isinstance(state, AttentionState), f"an attention layer was given a {type(state).__name__}"
    return state


def _arrays(state: State) -> ArraysCache:
    assert isinstance(state, ArraysCache), f"a recurrent layer was given a {type(state).__name__}"
    return state
