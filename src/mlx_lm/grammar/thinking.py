"""A constraint that begins after the model's reasoning.

Contract: as `Constraint`. While the model reasons every token is allowed but end tokens; after the marker that closes
its reasoning (and at most one token of line breaks) the inner constraint holds. A model that has not begun to reason
may open with the marker, or answer at once.

Markers are token ids, so that text which only looks like one is not taken for it; where a marker is several tokens they
must come as the tokenizer writes them.

This module does not know templates, nor whether a prompt ends inside reasoning; the caller says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_lm.errors import GrammarError
from mlx_lm.grammar.constraint import Constraint, TokenMask, allows, mask_width

__all__ = ["ThinkingConstraint"]


class ThinkingConstraint:
    """Reasoning first, then `inner`.

    Args:
        inner: the constraint of the answer, at its start.
        start: the ids of the opening marker; empty when the model cannot open reasoning itself.
        end: the ids of the closing marker.
        gaps: ids of line breaks, one of which may stand between the closing marker and the answer.
        ends: the ids that end generation.
        vocabulary: number of tokens.
        inside: the prompt ends inside reasoning.
    """

    def __init__(
        self,
        inner: Constraint,
        *,
        start: Sequence[int],
        end: Sequence[int],
        vocabulary: int,
        gaps: Sequence[int] = (),
        ends: frozenset[int] = frozenset(),
        inside: bool = False,
    ) -> None:
        if not end:
            raise GrammarError("The marker that closes the reasoning has no tokens.")
        self._inner = inner
        self._start, self._end = tuple(start), tuple(end)
        self._gaps, self._ends = frozenset(gaps), ends
        self._vocabulary = vocabulary
        self._inside = inside
        self._before: list[int] = []  # tokens that came before the answer, the gap included
        self._answer = 0  # tokens that the inner constraint took
        self._closed = not inside and not self._start  # the answer, or its gap, is next

    @property
    def thinking(self) -> bool:
        """Whether the reasoning has begun and has not ended."""
        return not self._closed and (self._inside or len(self._before) > 0)

    @property
    def complete(self) -> bool:
        return not self.thinking and self._opening() is None and self._inner.complete

    @property
    def done(self) -> bool:
        return not self.thinking and self._opening() is None and self._inner.done

    def _opening(self) -> int | None:
        """The next token of the opening marker where it has begun but is not whole."""
        count = len(self._before)
        if self._inside or self._closed or count == 0 or count >= len(self._start):
            return None
        return self._start[count]

    def mask(self) -> TokenMask:
        opening = self._opening()
        if opening is not None:
            return self._of([opening])
        if self.thinking:
            mask = np.full(mask_width(self._vocabulary), 0xFFFFFFFF, np.uint32)
            spare = len(mask) * 32 - self._vocabulary
            if spare:
                mask[-1] = np.uint32(0xFFFFFFFF >> spare)
            return mask & ~self._of(self._ends)
        mask = self._inner.mask()
        if self._answer == 0:
            if not self._closed:
                mask |= self._of(self._start[:1])
            elif self._may_gap:
                mask |= self._of(self._gaps)
        return mask

    @property
    def _may_gap(self) -> bool:
        """Right after the closing marker, once."""
        return bool(self._before) and tuple(self._before[-len(self._end) :]) == self._end

    def _of(self, tokens: Sequence[int] | frozenset[int]) -> TokenMask:
        mask = np.zeros(mask_width(self._vocabulary), np.uint32)
        for token in tokens:
            if 0 <= token < self._vocabulary:
                mask[token >> 5] |= np.uint32(1 << (token & 31))
        return mask

    def accept(self, token: int) -> None:
        if self._answer == 0 and not self._answers(token):
            if not allows(self.mask(), token):
                raise GrammarError(f"Token {token} is not allowed here.")
            self._before.append(token)
            self._settle()
        else:
            self._inner.accept(token)
            self._answer += 1

    def _answers(self, token: int) -> bool:
        """Whether a token is the answer's first; a token that both could take is the answer's."""
        if self.thinking or self._opening() is not None:
            return False
        special = (
            self._gaps if self._closed and self._may_gap else frozenset(self._start[:1] if not self._closed else ())
        )
        return token not in special or self._inner.validate([token]) == 1

    def _settle(self) -> None:
        """Works out from the tokens before the answer whether the reasoning has ended."""
        body = len(self._before) if self._inside else max(len(self._before) - len(self._start), 0)
        tail = tuple(self._before[-len(self._end) :])
        gap = self._before[-1:] and self._before[-1] in self._gaps
        held = tuple(self._before[-len(self._end) - 1 : -1]) if gap else ()
        self._closed = (
            (not self._inside and not self._start)
            or (body >= len(self._end) and tail == self._end)
            or (body > len(self._end) and held == self._end)
        )

    def rollback(self, count: int) -> None:
        if not 0 <= count <= self._answer + len(self._before):
            raise GrammarError(f"{count} tokens cannot be taken back.")
        inner = min(count, self._answer)
        self._inner.rollback(inner)
        self._answer -= inner
        if count > inner:
            del self._before[len(self._before) - (count - inner) :]
            self._settle()

    def forced(self) -> list[int]:
        opening = self._opening()
        if opening is not None:
            return list(self._start[len(self._before) :])
        if self._answer:
            return self._inner.forced()
        if self._closed and not self._may_gap:
            return self._inner.forced()
        return []

    def validate(self, tokens: Sequence[int]) -> int:
        if self._answer:
            return self._inner.validate(tokens)
        probe = self.copy()
        for i, token in enumerate(tokens):
            if probe._answer:
                return i + probe._inner.validate(tokens[i:])
            try:
                probe.accept(token)
            except GrammarError:
                return i
        return len(tokens)

    def copy(self) -> ThinkingConstraint:
        other = ThinkingConstraint(
            self._inner.copy(), start=self._start, end=self._end, vocabulary=self._vocabulary,
            gaps=tuple(self._gaps), ends=self._ends, inside=self._inside,
        )  # fmt: skip
        other._before, other._answer, other._closed = list(self._before), self._answer, self._closed
        return other
