"""What a sequence holds past its last whole block, in memory only.

Contract: behind each block, and behind the beginning of all, lie at most `SLOTS` tails of fewer than `BLOCK_TOKENS`
tokens. Their keys name the place, not the content, so each carries its tokens and is compared with them. A tail is
never written: one that goes on where another ends takes its place, and a lookup takes as much of one as it can use.
Tails are leaves of the same index as the blocks: under the same budget, evicted by the same rule. Only states that can
be cut anywhere have tails; those that forget would need a checkpoint at each length.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from .blocks import Payload, head
from .index import BlockIndex

__all__ = ["SLOTS", "Tail", "Tails"]

SLOTS = 16  # conversations that go on behind the same block; a lookup looks at all


@dataclass(frozen=True)
class Tail:
    """Tokens and their states, found under `key`."""

    key: bytes
    tokens: tuple[int, ...]
    payload: Payload

    def part(self, length: int) -> Payload:
        """The first `length` tokens."""
        return self.payload if length == len(self.tokens) else head(self.payload, length)


class Tails:
    """The tails in an index; `place` is the key of the block before, or the namespace."""

    def __init__(self, index: BlockIndex):
        self._index = index

    def find(self, place: bytes, tokens: Sequence[int]) -> tuple[Tail | None, int]:
        """The tail that begins as `tokens` do for longest, and how far."""
        best, longest = None, 0
        for key in _keys(place):
            held = self._index.get(key)
            if held is not None and (common := _common(held.payload.tokens, tokens)) > longest:
                best, longest = held.payload, common
        return best, longest

    def wants(self, place: bytes, tokens: Sequence[int]) -> bytes | None:
        """The key under which a tail of `tokens` is to be put; None where one that holds them is there already."""
        free = extended = None
        for key in _keys(place):
            held = self._index.get(key)
            if held is None:
                free = free or key
                continue
            common = _common(held.payload.tokens, tokens)
            if common == len(tokens):
                self._index.touch([key])
                return None
            if common == len(held.payload.tokens):
                extended = key
        return extended or free or self._index.oldest(_keys(place))

    def put(self, parent: bytes | None, tail: Tail) -> bool:
        """Keeps a tail behind block `parent` (None: at the beginning) in place of what has its key. False: no room."""
        self._index.remove(tail.key)
        nbytes = tail.payload.nbytes + 8 * len(tail.tokens)
        return self._index.put(tail.key, parent, tail, nbytes, complete=True)


def _keys(place: bytes) -> list[bytes]:
    return [hashlib.blake2b(place + b"tail%d" % slot, digest_size=16).digest() for slot in range(SLOTS)]


def _common(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Tokens that both begin with."""
    pairs = zip(ours, theirs, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
