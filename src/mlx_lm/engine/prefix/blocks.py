"""Between a sequence's states and block payloads.

States that hold every token are cut into blocks; those that forget (windows, recurrences) are kept whole, as a
checkpoint at a block's end. A payload is arrays by name and JSON-able fields, so it can lie in memory or on disk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ...errors import CacheMismatchError
from ...state import AttentionState, CacheList, State

__all__ = ["Payload", "checkpoint", "cut", "head", "needs_checkpoints", "restore"]


_OBJECT_BYTES = 256  # measured: 0.2-0.3 kB for an array, its name and its place in a dictionary


@dataclass(frozen=True)
class Payload:
    """A block's arrays: `pages` of states that hold all tokens, and maybe a checkpoint of the others."""

    pages: dict[str, mx.array]
    fields: dict[str, Any]
    checkpoint: dict[str, mx.array] | None = None
    checkpoint_fields: dict[str, Any] | None = None

    @property
    def nbytes(self) -> int:
        """Of the arrays and, about, of the objects: a recurrent model's blocks between checkpoints hold no array."""
        arrays = [*self.pages.values(), *(self.checkpoint or {}).values()]
        return _OBJECT_BYTES * (len(arrays) + 2) + sum(a.nbytes for a in arrays)


def leaves(states: Sequence[State]) -> Iterator[State]:
    """The states with lists taken apart."""
    for state in states:
        if isinstance(state, CacheList):
            yield from leaves(state.caches)
        else:
            yield state


def paged(state: State) -> bool:
    """Whether a state holds every token and can be cut anywhere."""
    return isinstance(state, AttentionState) and state.window is None


def needs_checkpoints(states: Sequence[State]) -> bool:
    """Whether resuming needs more than pages."""
    return any(not paged(state) for state in leaves(states))


def cut(states: Sequence[State], start: int, end: int) -> Payload:
    """Tokens start..end of every state that can be cut, in arrays of their own."""
    pages: dict[str, mx.array] = {}
    fields: dict[str, Any] = {}
    for i, state in enumerate(leaves(states)):
        if isinstance(state, AttentionState) and paged(state):
            arrays, fields[str(i)] = state.page(start, end)
            pages |= {f"{i}.{name}": mx.contiguous(a) for name, a in arrays.items()}
    return Payload(pages, fields)


def head(payload: Payload, length: int) -> Payload:
    """The first `length` tokens of a payload of pages."""
    pages = {name: a[:, :, :length] for name, a in payload.pages.items()}
    return Payload(pages, {leaf: {**fields, "tokens": length} for leaf, fields in payload.fields.items()})


def checkpoint(states: Sequence[State]) -> tuple[dict[str, mx.array], dict[str, Any]]:
    """The present of every state that cannot be cut."""
    arrays: dict[str, mx.array] = {}
    fields: dict[str, Any] = {}
    for i, state in enumerate(leaves(states)):
        if not paged(state):
            held, fields[str(i)] = state.saved()
            arrays |= {f"{i}.{name}": mx.contiguous(a) for name, a in held.items()}
    return arrays, fields


def restore(states: Sequence[State], blocks: Sequence[Payload]) -> None:
    """Puts the content of consecutive blocks, from the first on, into fresh states.

    Raises:
        CacheMismatchError: the payloads are not of such states; the states are then of no use.
    """
    last = blocks[-1]
    try:
        pages, forgetting = [_by_leaf(block.pages) for block in blocks], _by_leaf(last.checkpoint or {})
        for i, state in enumerate(leaves(states)):
            leaf = str(i)
            if isinstance(state, AttentionState) and paged(state):
                state.fill([own.get(leaf, {}) for own in pages], [b.fields[leaf] for b in blocks])
            else:
                assert last.checkpoint_fields is not None
                state.become(type(state).load(forgetting.get(leaf, {}), last.checkpoint_fields[leaf]))
    except (LookupError, AssertionError, TypeError, ValueError, AttributeError) as error:
        raise CacheMismatchError(f"A cached prefix does not fit the model's states: {error!r}.") from error


def _by_leaf(arrays: dict[str, mx.array]) -> dict[str, dict[str, mx.array]]:
    """The arrays of each state, under their own names."""
    found: dict[str, dict[str, mx.array]] = {}
    for name, array in arrays.items():
        leaf, _, own = name.partition(".")
        found.setdefault(leaf, {})[own] = array
    return found
