"""Prompt lookup: the text goes on as it did the last time. Pure Python; costs microseconds a step.

Source: https://github.com/apoorvumang/prompt-lookup-decoding.
"""

from collections.abc import Sequence

from .drafter import Drafter, Pick

__all__ = ["NGramDrafter"]


class NGramDrafter(Drafter):
    """Looks up the last `max_match` to `min_match` tokens in everything before them, the longest and latest first."""

    def __init__(self, tokens: Sequence[int], num_tokens: int, min_match: int, max_match: int | None):
        super().__init__(tokens)
        self.num_tokens = num_tokens
        self._sizes = range(max_match or min_match, min_match - 1, -1)
        self._ends: dict[tuple[int, ...], int] = {}  # where the latest occurrence of an n-gram ends
        self._indexed = 0

    def propose(self, forced: Sequence[int], count: int, pick: Pick) -> list[int]:
        self._index()
        text = [*self.tokens[-self._sizes[0] :], *forced]
        for size in self._sizes:
            at = self._ends.get(tuple(text[-size:])) if len(text) >= size else None
            if at is not None:
                return self._continued(at, forced, min(count, self.num_tokens))
        return []

    def _index(self) -> None:
        """Takes in the n-grams that something follows."""
        tokens = self.tokens
        for end in range(self._indexed + 1, len(tokens)):
            for size in self._sizes:
                if size <= end:
                    self._ends[tuple(tokens[end - size : end])] = end
        self._indexed = max(len(tokens) - 1, 0)

    def _continued(self, at: int, forced: Sequence[int], count: int) -> list[int]:
        """What follows `at`; past the end it goes round, as a text that repeats itself does."""
        found = self.tokens[at : at + count]
        if len(found) < count:
            found += forced
        return [found[i % len(found)] for i in range(count)]
