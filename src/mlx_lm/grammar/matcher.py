"""`Constraint` over llguidance's matcher.

Contract: as `Constraint`. The end of the text is kept here, not in the matcher: end tokens are in the mask exactly
where the grammar may end, whatever ids the tokenizer ends with and whether or not they could also be text.

This module does not know what kind of grammar it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_lm.errors import GrammarError
from mlx_lm.grammar.constraint import TokenMask, mask_width

__all__ = ["CompiledGrammar", "MatcherConstraint", "first_line"]


def first_line(message: str) -> str:
    """The part of an llguidance message that says what is wrong; the parser's state follows it."""
    head = message.split("\n<state>")[0].strip()
    lines = [line.strip() for line in head.split("\n")]
    reasons = [line for line in lines[1:] if line.startswith("error:")]
    return " ".join(" ".join([lines[0], *reasons]).split())[:400]


@dataclass(frozen=True)
class CompiledGrammar:
    """A grammar for one vocabulary; `template` is a matcher at its start, copied for every sequence.

    `text` is llguidance's form of the grammar, `ends` are the ids that end generation, `derived` keeps what was worked
    out from the vocabulary, for all its grammars.
    """

    template: Any
    vocabulary: Any
    ends: frozenset[int]
    text: str
    derived: dict[str, Any]

    def words(self, build: Callable[[Any, frozenset[int]], Any]) -> Any:
        """What `build` makes of the vocabulary, kept with it."""
        if "words" not in self.derived:
            self.derived["words"] = build(self.vocabulary, self.ends)
        return self.derived["words"]

    def start(self) -> MatcherConstraint:
        """A constraint at the beginning."""
        never = frozenset(self.vocabulary.eos_tokens) - self.ends
        return MatcherConstraint(self.template.deep_copy(), self.vocabulary.vocab_size, self.ends, never)


class MatcherConstraint:
    """Where one sequence stands: a matcher, and the end tokens after what it took.

    `ends` end generation; `never` are ids that the matcher takes for ends, but that do not.
    """

    def __init__(
        self,
        matcher: Any,
        vocab_size: int,
        ends: frozenset[int],
        never: frozenset[int] = frozenset(),
        ended: int = 0,
        count: int = 0,
    ) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._ends = ends
        self._never = never
        self._ended = ended  # end tokens accepted
        self._count = count  # tokens accepted, without them
        self._mask: TokenMask | None = None

    @property
    def complete(self) -> bool:
        return self._ended > 0 or bool(self._matcher.is_accepting())

    @property
    def done(self) -> bool:
        return self._ended > 0 or bool(self._matcher.is_stopped())

    def mask(self) -> TokenMask:
        if self._mask is None:
            self._mask = self._compute_mask()
        return self._mask.copy()

    def _compute_mask(self) -> TokenMask:
        mask = np.zeros(mask_width(self._vocab_size), np.uint32)
        if not self.done:
            self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
            self._check()
        allowed = self.complete
        for end in self._ends | self._never:
            if end < self._vocab_size:
                word, bit = end >> 5, np.uint32(1 << (end & 31))
                mask[word] = mask[word] | bit if allowed and end in self._ends else mask[word] & ~bit
        if not mask.any():
            raise GrammarError("No token of this tokenizer can go on here, and the grammar cannot end here either.")
        return mask

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"The grammar became too complex: {first_line(self._matcher.get_error())}")

    def accept(self, token: int) -> None:
        if token in self._ends:
            if not self.complete:
                raise GrammarError(f"End token {token} is not allowed here: the output is not complete.")
            self._ended += 1
        else:
            text = 0 <= token < self._vocab_size and token not in self._never
            if self._ended or not text or self._matcher.validate_tokens([token]) != 1:
                self._check()
                raise GrammarError(f"Token {token} is not allowed here.")
            self._matcher.consume_token(token)
            self._check()
            self._count += 1
        self._mask = None

    def rollback(self, count: int) -> None:
        if not 0 <= count <= self._ended + self._count:
            raise GrammarError(f"{count} tokens cannot be taken back; {self._ended + self._count} were accepted.")
        ends = min(count, self._ended)
        if count > ends:
            self._matcher.rollback(count - ends)
            self._check()
        self._ended -= ends
        self._count -= count - ends
        self._mask = None

    def forced(self) -> list[int]:
        if self.done:
            return []
        tokens = list(self._matcher.compute_ff_tokens())
        self._check()
        for i, token in enumerate(tokens):
            if token in self._ends:
                return tokens[:i]
        return tokens

    def validate(self, tokens: Sequence[int]) -> int:
        body = 0
        if not self._ended:
            while body < len(tokens) and 0 <= tokens[body] < self._vocab_size:
                if tokens[body] in self._ends or tokens[body] in self._never:
                    break
                body += 1
            if body:
                accepted = int(self._matcher.validate_tokens(list(tokens[:body])))
                if accepted < body:
                    return accepted
        end = body
        while end < len(tokens) and tokens[end] in self._ends:
            end += 1
        if end == body or (self.complete and body == 0):
            return end
        probe = self.copy()
        for token in tokens[:body]:
            probe.accept(token)
        return end if probe.complete else body

    def copy(self) -> MatcherConstraint:
        matcher = self._matcher.deep_copy()
        return MatcherConstraint(matcher, self._vocab_size, self._ends, self._never, self._ended, self._count)
