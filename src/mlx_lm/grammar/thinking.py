"""A constraint that begins after the model's reasoning.

Contract: as `Constraint`. While the model reasons every token is allowed but end tokens; after the marker that closes
its reasoning (and at most one token of line breaks) the inner constraint holds. A model that has not begun to reason
may open with the marker, or answer at once.

Markers are token ids, so that text which only looks like one is not taken for it; where a marker is several tokens they
must come as the tokenizer writes them.

This module does not know templates, nor whether a prompt ends inside reasoning; the caller says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mlx_lm.errors import GrammarError
from mlx_lm.grammar.constraint import Constraint, TokenMask, allows, mask_width

__all__ = ["ThinkingConstraint"]


@dataclass(frozen=True)
class _Phase:
    """Where the text stands before the answer.

    ready: the model may open its reasoning or answer; opening: `count` tokens of the marker came; inside: `count`
    tokens of the reasoning came and `tail` are the last; gap: the closing marker came; answer: it is next or has begun.
    """

    name: Literal["ready", "opening", "inside", "gap", "answer"]
    count: int = 0
    tail: tuple[int, ...] = ()


class ThinkingConstraint:
    """Reasoning first, then `inner`.

    Args:
        inner: the constraint of the answer, at its start.
        start: the ids of the opening marker; empty when the model cannot open reasoning itself.
        end: the ids of the closing marker.
        vocabulary: number of tokens.
        gaps: ids of line breaks, one of which may stand between the closing marker and the answer.
        ends: the ids that end generation.
        inside: the prompt ends inside reasoning.
        limit: most tokens of reasoning; then the closing marker comes.
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
        limit: int | None = None,
    ) -> None:
        if not end:
            raise GrammarError("The marker that closes the reasoning has no tokens.")
        self._inner = inner
        self._start, self._end = tuple(start), tuple(end)
        self._gaps, self._ends = frozenset(gaps), ends
        self._vocabulary = vocabulary
        self._limit = limit
        self._phase: _Phase = _Phase("inside") if inside else _Phase("ready" if start else "answer")
        self._past: list[_Phase] = []  # the phase before each token that came before the answer
        self._answer = 0  # tokens that the inner constraint took

    @property
    def thinking(self) -> bool:
        """Whether the reasoning has begun and has not ended."""
        return self._phase.name in ("opening", "inside")

    @property
    def complete(self) -> bool:
        return not self.thinking and self._inner.complete

    @property
    def done(self) -> bool:
        return not self.thinking and self._inner.done

    def mask(self) -> TokenMask:
        if self._phase.name == "opening":
            return self._of([self._start[self._phase.count]])
        if self._phase.name == "inside":
            closing = self._closing()
            if closing:
                return self._of(closing[:1])
            mask = np.full(mask_width(self._vocabulary), 0xFFFFFFFF, np.uint32)
            spare = len(mask) * 32 - self._vocabulary
            if spare:
                mask[-1] = np.uint32(0xFFFFFFFF >> spare)
            return mask & ~self._of(self._ends)
        return self._inner.mask() | self._of(self._besides())

    def _closing(self) -> list[int]:
        """What is left of the closing marker once the reasoning has been long enough; else nothing."""
        phase = self._phase
        if self._limit is None or phase.name != "inside" or phase.count < self._limit:
            return []
        come = next(n for n in range(len(self._end) - 1, -1, -1) if n == 0 or phase.tail[-n:] == self._end[:n])
        return list(self._end[come:])

    def _besides(self) -> frozenset[int]:
        """Tokens that can come in place of the answer's next one."""
        if self._phase.name == "ready":
            return frozenset(self._start[:1])
        return self._gaps if self._phase.name == "gap" else frozenset()

    def _of(self, tokens: Iterable[int]) -> TokenMask:
        mask = np.zeros(mask_width(self._vocabulary), np.uint32)
        for token in tokens:
            if 0 <= token < self._vocabulary:
                mask[token >> 5] |= np.uint32(1 << (token & 31))
        return mask

    def accept(self, token: int) -> None:
        if self._takes(token):
            if not allows(self.mask(), token):
                raise GrammarError(f"Token {token} is not allowed here.")
            self._past.append(self._phase)
            self._phase = self._next(token)
            return
        self._inner.accept(token)
        self._answer += 1
        if self._answer == 1:
            self._past.append(self._phase)
            self._phase = _Phase("answer")

    def _takes(self, token: int) -> bool:
        """Whether a token comes before the answer; one that could be either is the answer's."""
        return self.thinking or (token in self._besides() and self._inner.validate([token]) == 0)

    def _next(self, token: int) -> _Phase:
        phase = self._phase
        if phase.name in ("ready", "opening"):
            count = phase.count + 1
            return _Phase("opening", count) if count < len(self._start) else _Phase("inside")
        if phase.name == "gap":
            return _Phase("answer")
        tail = (*phase.tail, token)[-len(self._end) :]
        return _Phase("gap") if tail == self._end else _Phase("inside", phase.count + 1, tail)

    def rollback(self, count: int) -> None:
        before = len(self._past) - (self._answer > 0)
        if not 0 <= count <= self._answer + before:
            raise GrammarError(f"{count} tokens cannot be taken back; {self._answer + before} were accepted.")
        inner = min(count, self._answer)
        self._inner.rollback(inner)
        if inner and inner == self._answer:
            self._phase = self._past.pop()
        self._answer -= inner
        for _ in range(count - inner):
            self._phase = self._past.pop()

    def forced(self) -> list[int]:
        if self._phase.name == "opening":
            return list(self._start[self._phase.count :])
        if self._phase.name == "inside":
            return self._closing()
        return self._inner.forced() if self._phase.name == "answer" else []

    def validate(self, tokens: Sequence[int]) -> int:
        if self._phase.name == "answer":
            return self._inner.validate(tokens)
        probe = self.copy()
        for i, token in enumerate(tokens):
            if probe._phase.name == "answer":
                return i + probe._inner.validate(tokens[i:])
            try:
                probe.accept(token)
            except GrammarError:
                return i
        return len(tokens)

    def copy(self) -> ThinkingConstraint:
        other = ThinkingConstraint(
            self._inner.copy(), start=self._start, end=self._end, vocabulary=self._vocabulary,
            gaps=tuple(self._gaps), ends=self._ends, limit=self._limit,
        )  # fmt: skip
        other._phase, other._past, other._answer = self._phase, list(self._past), self._answer
        return other
