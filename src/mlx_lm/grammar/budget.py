"""A constraint that ends within a number of tokens.

Contract: as `Constraint`. Far from the limit everything that the grammar allows is allowed. Near it, only what leaves
enough tokens to complete the structure: the next token of a known way out, tokens that keep that way open (as more
text inside a string), and, where there are few, tokens from which another way out is short enough. When the last token
is spent the structure is complete and `done` is true. Where no way out is known the grammar decides alone.

This module does not know what the tokens mean, nor what the model prefers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_lm.errors import GrammarError
from mlx_lm.grammar.closing import allowed_bytes, byte_matcher, byte_vocabulary, kinds_of, shortest_close
from mlx_lm.grammar.constraint import Constraint, TokenMask, allows, mask_tokens, mask_width
from mlx_lm.grammar.matcher import CompiledGrammar

__all__ = ["BudgetConstraint", "within_budget"]

_ZONE = 512  # tokens from the limit where the way out begins to be watched
_RESERVE = 48  # how much longer one free token may make the way out
_FEW = 32
_SLACK = 3  # tokens by which another cut of the same bytes may be longer


@dataclass(frozen=True)
class _Words:
    """The vocabulary's bytes, in the forms that the search needs."""

    vocabulary: Any
    by_bytes: dict[bytes, int]
    contents: NDArray[np.uint32]  # (V, 8): which bytes a token has; all bits for tokens without text
    ends: frozenset[int] = field(default_factory=frozenset)

    def split(self, text: bytes) -> list[int]:
        return [int(t) for t in self.vocabulary.tokenize_bytes(text)] if text else []

    def made_of(self, chosen: Sequence[int]) -> TokenMask:
        """The tokens that have only these bytes."""
        wanted = np.zeros(8, np.uint32)
        for byte in chosen:
            wanted[byte >> 5] |= np.uint32(1 << (byte & 31))
        inside = np.zeros(mask_width(len(self.contents)) * 32, np.bool_)
        inside[: len(self.contents)] = ~np.any(self.contents & ~wanted, axis=1)
        return np.packbits(inside, bitorder="little").view(np.uint32)


def _words(vocabulary: Any, ends: frozenset[int]) -> _Words:
    size = vocabulary.vocab_size
    contents = np.full((size, 8), 0xFFFFFFFF, np.uint32)
    by_bytes: dict[bytes, int] = {}
    for token in range(size):
        if vocabulary.is_special_token(token) or token in ends:
            continue
        text = vocabulary.decode_bytes([token])
        if not text:
            continue
        by_bytes.setdefault(text, token)
        bits = 0
        for byte in set(text):
            bits |= 1 << byte
        contents[token] = [(bits >> shift) & 0xFFFFFFFF for shift in range(0, 256, 32)]
    return _Words(vocabulary, by_bytes, contents, ends)


def within_budget(grammar: CompiledGrammar, budget: int) -> Constraint:
    """A fresh constraint of `grammar` that is complete after at most `budget` tokens.

    Raises GrammarError when the shortest output that was found needs more, or none was found.
    """
    matcher = byte_matcher(byte_vocabulary(), grammar.text)
    if matcher is None:
        raise GrammarError("A grammar that names special tokens cannot be closed within a budget.")
    way = shortest_close(matcher)
    if way is None:
        raise GrammarError("No way to complete this grammar was found, so it cannot be closed within a budget.")
    words = grammar.words(_words)
    needed = len(words.split(way))
    if needed > budget:
        raise GrammarError(f"The shortest output of this grammar has about {needed} tokens, more than {budget}.")
    return BudgetConstraint(grammar.start(), _Outlook(matcher, words), budget, max(_RESERVE, 2 * needed))


class _Outlook:
    """Follows the output byte by byte and knows a way out from where it stands."""

    def __init__(self, matcher: Any, words: _Words) -> None:
        self.words = words
        self._matcher = matcher
        self._lengths: list[int] = []  # bytes of each token
        self._way: bytes | None = None
        self._open: tuple[bytes, TokenMask] | None = None  # tokens that kept this way open, at the last look

    def copy(self) -> _Outlook:
        other = _Outlook(self._matcher.deep_copy(), self.words)
        other._lengths, other._way, other._open = list(self._lengths), self._way, self._open
        return other

    def follow(self, tokens: Sequence[int]) -> None:
        """Moves on to the end of `tokens`, of which the first were followed already."""
        for token in tokens[len(self._lengths) :]:
            text = b"" if token in self.words.ends else self.words.vocabulary.decode_bytes([token])
            self._matcher.consume_tokens(list(text))
            self._lengths.append(len(text))
            if self._way is not None and text:
                self._way = self._way[len(text) :] if self._way.startswith(text) else self._way
                if self._open is not None and not allows(self._open[1], token):
                    self._open = None

    def back(self, length: int) -> None:
        """Takes back the tokens after the first `length`."""
        if length < len(self._lengths):
            self._matcher.rollback(sum(self._lengths[length:]))
            del self._lengths[length:]
            self._way = self._open = None

    def way(self) -> bytes | None:
        """What is left of the last way while it leads out, else a new one."""
        if self._way is None or not _completes(self._matcher, self._way):
            self._way = shortest_close(self._matcher)
        return self._way

    def keeps_open(self, way: bytes) -> TokenMask:
        """Tokens made of bytes after which the same way is open; of many bytes one of each kind is tried."""
        if self._open is not None and self._open[0] == way:
            return self._open[1]
        same: list[int] = []
        for byte, alike in kinds_of(allowed_bytes(self._matcher)):
            probe = self._matcher.deep_copy()
            if probe.consume_token(byte) and _completes(probe, way):
                same += alike
        self._open = (way, self.words.made_of(same))
        return self._open[1]

    def way_after(self, token: int) -> bytes | None:
        """The way out after one more token."""
        probe = self._matcher.deep_copy()
        text = self.words.vocabulary.decode_bytes([token])
        return shortest_close(probe, quick=True) if text and probe.consume_tokens(list(text)) else None


class BudgetConstraint:
    """See the module."""

    def __init__(self, inner: Constraint, outlook: _Outlook, budget: int, reserve: int) -> None:
        self._inner = inner
        self._outlook = outlook
        self._words = outlook.words
        self._budget = budget
        self._reserve = reserve
        self._tokens: list[int] = []
        self._mask: TokenMask | None = None

    @property
    def _left(self) -> int:
        return self._budget - len(self._tokens)

    @property
    def complete(self) -> bool:
        return self._inner.complete

    @property
    def done(self) -> bool:
        return self._inner.done or (self._left <= 0 and self._inner.complete)

    def mask(self) -> TokenMask:
        if self._mask is None:
            self._mask = self._compute_mask()
        return self._mask.copy()

    def _compute_mask(self) -> TokenMask:
        mask = self._inner.mask()
        left = self._left
        if left > _ZONE or self._inner.done:
            return mask
        self._outlook.follow(self._tokens)
        way = self._outlook.way()
        if way is None:
            return mask
        plan = self._words.split(way)
        slack = left - len(plan)
        if slack >= self._reserve:
            return mask
        keep = np.zeros_like(mask)
        _add(keep, plan[:1] or self._words.ends)
        if slack >= 1:
            keep |= self._outlook.keeps_open(way)
            _add(keep, self._few(mask, left - 1))
        if slack >= _SLACK:
            beginnings = (self._words.by_bytes.get(way[:length]) for length in range(1, 17))
            _add(keep, [token for token in beginnings if token is not None])
        keep &= mask
        return keep if keep.any() else mask

    def _few(self, mask: TokenMask, left: int) -> list[int]:
        """Where few tokens are allowed: those from which some way out is short enough."""
        found = mask_tokens(mask)
        if len(found) > _FEW:
            return []
        tokens = [int(token) for token in found]
        kept = [token for token in tokens if token in self._words.ends]
        for token in tokens:
            if token not in self._words.ends:
                way = self._outlook.way_after(token)
                if way is not None and len(self._words.split(way)) <= left:
                    kept.append(token)
        return kept

    def accept(self, token: int) -> None:
        if self._left <= _ZONE and not allows(self.mask(), token):
            raise GrammarError(f"Token {token} is not allowed here: the structure must close in time.")
        self._inner.accept(token)
        self._tokens.append(token)
        self._mask = None

    def rollback(self, count: int) -> None:
        self._inner.rollback(count)
        del self._tokens[len(self._tokens) - count :]
        self._outlook.back(len(self._tokens))
        self._mask = None

    def forced(self) -> list[int]:
        return [] if self.done else self._inner.forced()[: max(self._left, 0)]

    def validate(self, tokens: Sequence[int]) -> int:
        count = self._inner.validate(tokens)
        if self._left - count > _ZONE:
            return count
        probe = self.copy()
        for i, token in enumerate(tokens[:count]):
            try:
                probe.accept(token)
            except GrammarError:
                return i
        return count

    def copy(self) -> BudgetConstraint:
        other = BudgetConstraint(self._inner.copy(), self._outlook.copy(), self._budget, self._reserve)
        other._tokens = list(self._tokens)
        return other


def _completes(matcher: Any, way: bytes) -> bool:
    """Whether the grammar may end after these bytes."""
    probe = matcher.deep_copy()
    return (not way or probe.try_consume_tokens(list(way)) == len(way)) and bool(probe.is_accepting())


def _add(mask: TokenMask, tokens: Iterable[int]) -> None:
    for token in tokens:
        if 0 <= token >> 5 < len(mask):
            mask[token >> 5] |= np.uint32(1 << (token & 31))
