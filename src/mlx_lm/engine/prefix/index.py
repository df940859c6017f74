"""Which blocks are in memory, under a hard byte budget, least recently used first out. Pure Python.

Blocks form a forest: a block is reachable only through its parent, so only leaves are evicted. The index does not
know what a block holds.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Block", "BlockIndex"]


@dataclass
class Block:
    """One block: `payload` is opaque; `complete` says that a sequence can be resumed at its end."""

    key: bytes
    parent: bytes | None
    payload: Any
    nbytes: int
    complete: bool
    children: set[bytes] = field(default_factory=set)


class BlockIndex:
    """Blocks by key, at most `budget` bytes of them."""

    def __init__(self, budget: int):
        self.budget = budget
        self.nbytes = 0
        self.evicted = 0
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, key: bytes) -> bool:
        return key in self._blocks

    def get(self, key: bytes) -> Block | None:
        """The block, without touching it."""
        return self._blocks.get(key)

    def touch(self, keys: Sequence[bytes]) -> None:
        """Marks blocks as just used; a child counts as used before its parent, so that leaves go first."""
        for key in reversed(keys):
            if key in self._blocks:
                self._blocks.move_to_end(key)

    def put(self, key: bytes, parent: bytes | None, payload: Any, nbytes: int, *, complete: bool) -> bool:
        """Adds a block, or replaces an incomplete one; evicts what must go. False when it can't be held.

        A parent that is not in memory (it may be on disk) makes the block a root of its own.
        """
        old = self._blocks.get(key)
        if old is not None and (old.complete or not complete):
            self._blocks.move_to_end(key)
            return True
        if old is not None:
            self.nbytes -= old.nbytes
        fits = self.nbytes + nbytes <= self.budget
        if not fits and not self._make_room(nbytes, {*self._ancestors(parent), key}):
            if old is not None:
                self.nbytes += old.nbytes
            return False
        known = parent if parent in self._blocks else None
        block = Block(key, known, payload, nbytes, complete, old.children if old is not None else set())
        self._blocks[key] = block
        self._blocks.move_to_end(key)
        self.nbytes += nbytes
        if known is not None:
            self._blocks[known].children.add(key)
        return True

    def remove(self, key: bytes) -> None:
        """Forgets a block and everything that hangs on it."""
        doomed = [key]
        while doomed:
            block = self._blocks.pop(doomed.pop(), None)
            if block is None:
                continue
            self.nbytes -= block.nbytes
            if block.parent is not None and block.parent in self._blocks:
                self._blocks[block.parent].children.discard(block.key)
            doomed.extend(block.children)

    def oldest(self, keys: Sequence[bytes]) -> bytes | None:
        """The least recently used of `keys`; None where none is held."""
        wanted = set(keys)
        return next((key for key in self._blocks if key in wanted), None)

    def trim_to(self, budget: int) -> None:
        """Evicts until at most `budget` bytes are held."""
        self._make_room(self.budget - budget, set())

    def clear(self) -> None:
        self._blocks.clear()
        self.nbytes = 0

    def check(self) -> None:
        """Raises AssertionError when the books do not balance."""
        assert self.nbytes == sum(b.nbytes for b in self._blocks.values()), "bytes do not add up"
        assert self.nbytes <= self.budget, "over budget"
        for block in self._blocks.values():
            assert block.parent is None or block.key in self._blocks[block.parent].children, "a parent forgot a child"
            assert all(c in self._blocks and self._blocks[c].parent == block.key for c in block.children), "lost child"

    def _ancestors(self, key: bytes | None) -> set[bytes]:
        found: set[bytes] = set()
        while key is not None and key in self._blocks:
            found.add(key)
            key = self._blocks[key].parent
        return found

    def _make_room(self, nbytes: int, protected: set[bytes]) -> bool:
        """Evicts least recently used leaves until `nbytes` more fit."""
        while self.nbytes + nbytes > self.budget:
            # Keys in use order; the first leaf that may go. Chains are touched leaf-last, so this is near the front.
            victim = next((k for k, b in self._blocks.items() if not b.children and k not in protected), None)
            if victim is None:
                return False
            self.remove(victim)
            self.evicted += 1
        return True
