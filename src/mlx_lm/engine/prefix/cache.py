"""The prefix cache: what was computed for a beginning is not computed again, in memory and on disk.

All MLX work here runs on the engine's thread; the disk tier gets plain bytes and does its own writing. A hit gives the
states that a cold run would have, so on exact kernels the answer is bit-equal.

Whole blocks lie in memory and on disk; what a sequence holds past its last one lies in memory only (see `tails`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx

from ...errors import CacheMismatchError
from ...state import State
from .blocks import Payload, checkpoint, cut, needs_checkpoints, restore
from .buffers import Buffer, to_array, to_buffer
from .index import Block, BlockIndex
from .keys import BLOCK_TOKENS, chain
from .tails import Tail, Tails

__all__ = ["Buffer", "DiskTier", "PrefixCache", "PrefixStats", "Reuse"]


class StoredBlock(Protocol):
    """A block read from disk."""

    arrays: Mapping[str, Any]
    meta: Mapping[str, Any]


class DiskTier(Protocol):
    """What the prefix cache needs of a disk store."""

    @property
    def read_only(self) -> bool: ...

    def contains(self, namespace: bytes, key: bytes, *, complete: bool = False) -> bool: ...

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
    """A lookup's result: the first `tokens` need not be computed; `keys` are those of the whole blocks among them."""

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
        self._tails = Tails(self.index)
        self.disk = disk
        self.disk_min_tokens = disk_min_tokens
        self.stats = PrefixStats()

    def reuse(
        self,
        space: bytes,
        tokens: Sequence[int],
        states: Sequence[State],
        *,
        more_than: int = 0,
        at_most: int | None = None,
    ) -> Reuse:
        """Puts the longest known beginning of `tokens` into fresh `states`; always leaves a token to compute.

        `space` is the namespace: what computes. The longest prefix wins, wherever its blocks lie; one of `more_than`
        tokens or fewer is left alone and the lookup not counted, and no more than `at_most` tokens are taken.
        """
        counted = more_than == 0
        self.stats.lookups += counted
        self.stats.tokens += len(tokens) * counted
        keys = chain(space, tokens[:-1][:at_most])
        resumable = not needs_checkpoints(states)
        known = 0
        while known < len(keys) and self._known(space, keys[known]):
            known += 1
        while known and not resumable and not self._known(space, keys[known - 1], complete=True):
            known -= 1
        tail, length = self._tail(space, keys[:known], tokens[:-1][:at_most], resumable)
        if known * BLOCK_TOKENS + length <= more_than:
            return Reuse(0, ())
        blocks, from_disk = self._collect(space, keys[:known], resumable)
        if len(blocks) < known:
            known = len(blocks)
            tail, length = self._tail(space, keys[:known], tokens[:-1][:at_most], resumable)
        total = known * BLOCK_TOKENS + length
        if total <= more_than:
            return Reuse(0, ())
        used = keys[:known]
        if tail is not None:
            blocks.append(tail.part(length))
            used = [*used, tail.key]
        if not self._fill(states, blocks):
            self.index.remove(used[-1])
            return Reuse(0, ())
        self.index.touch(used)
        self.stats.lookups += not counted
        self.stats.tokens += len(tokens) * (not counted)
        self.stats.reused_tokens += total
        self.stats.disk_tokens += from_disk * BLOCK_TOKENS
        return Reuse(total, tuple(keys[:known]))

    def store(self, space: bytes, tokens: Sequence[int], states: Sequence[State], *, at: int | None = None) -> int:
        """Keeps the blocks of `tokens` that `states` hold, and the tail; returns how many whole blocks are new.

        States that forget are kept only when the states stand exactly at the end of a block: `at` says where they
        stand (default: their offset).
        """
        stands = max((s.offset for s in states), default=0) if at is None else at
        usable = min(len(tokens), stands) // BLOCK_TOKENS
        keys = chain(space, tokens[: usable * BLOCK_TOKENS])
        pages_only = not needs_checkpoints(states)
        durable = self.disk is not None and not self.disk.read_only and len(keys) * BLOCK_TOKENS >= self.disk_min_tokens
        new, room = 0, True
        for i, key in enumerate(keys):
            last = stands == (i + 1) * BLOCK_TOKENS
            complete = pages_only or last
            old = self.index.get(key)
            wanted = room and (old is None or (complete and not old.complete))
            complete = complete or (old is not None and old.complete)
            # A block may be in memory only: the prefix was too short for the disk then, or the disk too busy.
            unwritten = durable and self.disk is not None and not self.disk.contains(space, key, complete=complete)
            if not wanted and not unwritten:
                continue
            payload = self._payload(states, i, old, checkpoint_here=last and not pages_only)
            parent = keys[i - 1] if i else None
            if wanted:
                room = self.index.put(key, parent, payload, payload.nbytes, complete=complete)
                new += room
            if unwritten and self.disk is not None:
                self.disk.put(space, key, parent, *_to_stored(payload, complete))
            if not room and not durable:
                break
        self.stats.stored_blocks += new
        rest = tuple(tokens[len(keys) * BLOCK_TOKENS : stands])
        if rest and room and pages_only:
            self._store_tail(space, keys, rest, states)
        return new

    def clear(self) -> None:
        """Forgets what is in memory."""
        self.index.clear()

    def check(self) -> None:
        """Raises AssertionError when the books do not balance."""
        self.index.check()

    def _tail(
        self, space: bytes, keys: Sequence[bytes], tokens: Sequence[int], resumable: bool
    ) -> tuple[Tail | None, int]:
        """What lies in memory behind the blocks `keys` of `tokens`, and how much of it can be used."""
        if not resumable:
            return None, 0
        start = len(keys) * BLOCK_TOKENS
        return self._tails.find(keys[-1] if keys else space, tokens[start : start + BLOCK_TOKENS])

    def _store_tail(self, space: bytes, keys: Sequence[bytes], rest: tuple[int, ...], states: Sequence[State]) -> None:
        """Keeps what `states` hold of `rest`, the tokens behind the blocks `keys`."""
        key = self._tails.wants(keys[-1] if keys else space, rest)
        if key is None:
            return
        start = len(keys) * BLOCK_TOKENS
        payload = cut(states, start, start + len(rest))
        mx.eval(list(payload.pages.values()))
        self._tails.put(keys[-1] if keys else None, Tail(key, rest, payload))

    def _known(self, space: bytes, key: bytes, *, complete: bool = False) -> bool:
        held = self.index.get(key)
        if held is not None and (held.complete or not complete):
            return True
        return self.disk is not None and self.disk.contains(space, key, complete=complete)

    def _fill(self, states: Sequence[State], blocks: Sequence[Payload]) -> bool:
        """All states or none; False when the blocks are of another format under our key: as good as absent."""
        filled = [state.copy() for state in states]
        try:
            restore(filled, blocks)
        except CacheMismatchError:
            return False
        for state, content in zip(states, filled, strict=True):
            state.become(content)
        mx.eval([array for state in states for array in state.arrays()])  # together: each alone is a wait of its own
        return True

    def _payload(self, states: Sequence[State], i: int, old: Block | None, *, checkpoint_here: bool) -> Payload:
        """Block i of `states`, evaluated; what is in memory already is used again."""
        page = cut(states, i * BLOCK_TOKENS, (i + 1) * BLOCK_TOKENS) if old is None else old.payload
        if checkpoint_here and page.checkpoint is None:
            page = Payload(page.pages, page.fields, *checkpoint(states))
        mx.eval(list(page.pages.values()), list((page.checkpoint or {}).values()))
        return page

    def _collect(self, space: bytes, keys: Sequence[bytes], resumable: bool) -> tuple[list[Payload], int]:
        """Payloads of the longest run of `keys` that can be resumed at its end, and how many came from disk."""
        blocks: list[Payload] = []
        disk: list[bool] = []
        good = 0
        for i, key in enumerate(keys):
            held = self.index.get(key)
            payload, complete = (held.payload, held.complete) if held is not None else self._read(space, key)
            stale = held is None
            # A block may be in memory without its checkpoint and on disk with it.
            if held is not None and not complete and not resumable and i == len(keys) - 1:
                stored, whole = self._read(space, key)
                if stored is not None and whole:
                    payload, complete, stale = stored, True, True
            if payload is None:
                break
            if stale:
                self.index.put(key, keys[i - 1] if i else None, payload, payload.nbytes, complete=complete)
            blocks.append(payload)
            disk.append(stale)
            if complete or resumable:
                good = i + 1
        return blocks[:good], sum(disk[:good])

    def _read(self, space: bytes, key: bytes) -> tuple[Payload | None, bool]:
        stored = None if self.disk is None else self.disk.get(space, key)
        if stored is None:
            return None, False
        try:
            arrays = {name: to_array(buffer) for name, buffer in stored.arrays.items()}
            pages = {n.removeprefix("p."): a for n, a in arrays.items() if n.startswith("p.")}
            marks = {n.removeprefix("c."): a for n, a in arrays.items() if n.startswith("c.")}
            meta = stored.meta
            fields = meta["checkpoint_fields"]
            payload = Payload(pages, meta["fields"], None if fields is None else marks, fields)
            return payload, bool(meta["complete"])
        except (KeyError, TypeError, ValueError):
            return None, False


def _to_stored(payload: Payload, complete: bool) -> tuple[dict[str, Buffer], dict[str, Any]]:
    """What the disk tier takes."""
    arrays = {f"p.{n}": to_buffer(a) for n, a in payload.pages.items()}
    arrays |= {f"c.{n}": to_buffer(a) for n, a in (payload.checkpoint or {}).items()}
    return arrays, {"fields": payload.fields, "checkpoint_fields": payload.checkpoint_fields, "complete": complete}
