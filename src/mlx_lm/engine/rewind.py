"""Marks of a sequence's states and the way back to them, at no cost for states that can be trimmed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..state import AttentionState, State
from ..state.arrays import flatten

__all__ = ["Mark", "Rewind"]


@dataclass(frozen=True)
class Mark:
    """How far states were, and snapshots of those that cannot be trimmed back."""

    offset: int
    snapshots: list[tuple[State, Any]]


class Rewind:
    """Marks and takes back the states of one sequence."""

    def __init__(self, states: Sequence[State]):
        leaves = list(flatten(states))
        self._growing = [s for s in leaves if isinstance(s, AttentionState)]
        self._others = [s for s in leaves if not isinstance(s, AttentionState)]
        self._packed_later = [s for s in self._growing if s.bits is not None and s.start > 0]
        self._leader: AttentionState | None = None  # layers move together, but some never get keys of their own

    def mark(self) -> Mark:
        """The present."""
        if self._leader is None:
            self._leader = next((s for s in self._growing if s.offset), None)
        return Mark(
            0 if self._leader is None else self._leader.offset, [(state, state.snapshot()) for state in self._others]
        )

    def to(self, mark: Mark, tokens: int) -> bool:
        """Back to `tokens` tokens after the mark; False, and nothing done, where those would have to be computed again.

        A step that failed may have moved some states and not others, so each goes back by what it has too much.
        """
        if mark.snapshots and tokens:
            return False
        for state in self._growing:
            extra = state.offset - mark.offset - tokens
            if extra > 0:
                state.trim(extra)
        for state, snapshot in mark.snapshots:
            state.restore(snapshot)
        return True

    def exact_room(self) -> int | None:
        """Tokens that may be fed at once as if one by one, since packing begins between two steps; None is no limit."""
        return min((s.start - s.offset for s in self._packed_later if s.offset < s.start), default=None)
