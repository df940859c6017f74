"""A hard limit on the tokens of reasoning.

Contract: `ThinkingBudget.advance(token)` follows the tokens of one request. Once the budget is used up it names the
tokens that must come next, to the end of reasoning. Reasoning never has more than `budget` tokens: markers and forced
tokens do not count. A model that opens reasoning again has what is left.

This module does not sample: its caller forces the tokens, and advances with them too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from mlx_lm.errors import RequestError

__all__ = ["ThinkingBudget"]


class ThinkingBudget:
    """Counts the reasoning of one request.

    Args:
        start_ids, end_ids: the tokens of the markers around reasoning.
        budget: tokens of reasoning, at least 0.
        forced_end_ids: what is forced at the end of the budget: words that lead to the end, `end_ids`, and what must
            follow them (a header of the answer); None: `end_ids` alone.
        inside: the prompt has opened reasoning.

    Raises RequestError for a budget below 0 or markers that do not fit.
    """

    def __init__(
        self,
        start_ids: Sequence[int],
        end_ids: Sequence[int],
        budget: int,
        forced_end_ids: Sequence[int] | None = None,
        *,
        inside: bool = False,
    ) -> None:
        self._start, self._end = tuple(start_ids), tuple(end_ids)
        self._closing = self._end if forced_end_ids is None else tuple(forced_end_ids)
        if budget < 0:
            raise RequestError(f"A thinking budget can't be {budget}: give 0 or more tokens.")
        places = range(len(self._closing) - len(self._end) + 1)
        self._end_at = next((at for at in places if self._closing[at : at + len(self._end)] == self._end), -1)
        if not self._end or self._end_at < 0:
            raise RequestError("The forced end of reasoning must contain the marker that ends reasoning.")
        self.budget = budget
        self.inside = inside
        self._recent: tuple[int, ...] = ()  # tokens that may be the beginning of a marker
        self._count = 0  # tokens inside, a beginning of the end marker included
        self._forced: tuple[int, ...] = ()
        self._force_if_due()

    @property
    def used(self) -> int:
        """Tokens of reasoning so far."""
        return self._count

    @property
    def forced(self) -> tuple[int, ...] | None:
        """The tokens that must come next; None when the model is free."""
        return self._forced or None

    def copy(self) -> ThinkingBudget:
        """An independent copy, for a caller that may take tokens back."""
        return copy.copy(self)

    def advance(self, token: int) -> tuple[int, ...] | None:
        """Takes in the next token of the output; gives `forced`.

        Raises RequestError if `token` is not the one that had to come.
        """
        if self._forced:
            if token != self._forced[0]:
                raise RequestError(f"Token {token} came where the thinking budget asked for {self._forced[0]}.")
            self._forced = self._forced[1:]
            if not self._forced:
                self.inside, self._recent = False, ()
            return self.forced
        marker = self._end if self.inside else self._start
        self._recent = (*self._recent, token)[-len(marker) :] if marker else ()
        if self.inside:
            self._count += 1
        if marker and self._recent == marker:
            if self.inside:
                self._count -= len(marker)
            self.inside, self._recent = not self.inside, ()
        self._force_if_due()
        return self.forced

    def _force_if_due(self) -> None:
        if not self.inside:
            return
        if self._count < self.budget:
            return
        begun = self._begun()  # the model is writing the end itself: it must go on with it
        self._forced = self._closing[self._end_at + begun :] if begun else self._closing
        self._count -= begun

    def _begun(self) -> int:
        """How many of the last tokens are the beginning of the end marker."""
        for count in range(min(len(self._end) - 1, len(self._recent)), 0, -1):
            if self._recent[-count:] == self._end[:count]:
                return count
        return 0
