"""A draft model's guesses. Its states may be of any kind; what was guessed wrong is taken back or computed again."""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from ...state import State
from ..model_states import hidden_and_head
from ..rewind import Rewind
from .drafter import Drafter, Pick

__all__ = ["ModelDrafter"]

_CHUNK = 512  # tokens at a time of a long prompt


class ModelDrafter(Drafter):
    """Greedy guesses of `model`, whose `states` hold `known` of `tokens` already.

    `_held` counts the tokens that the states hold: certain ones, then guesses of the last proposal (`_guesses`).
    """

    def __init__(
        self, tokens: Sequence[int], model: nn.Module, states: Sequence[State], num_tokens: int, known: int = 0
    ):
        super().__init__(tokens)
        self.states = list(states)
        self.num_tokens = num_tokens
        self._hidden, self._head = hidden_and_head(model)
        self._rewind = Rewind(self.states)
        self._held = self._marked = known
        self._mark = self._rewind.mark()
        self._guesses: list[int] = []

    @property
    def nbytes(self) -> int:
        return sum(state.nbytes for state in self.states)

    def prefilled(self, done: int, hidden: mx.array) -> None:
        self._feed(self.tokens[self._held : min(done, len(self.tokens) - 1)])

    def propose(self, forced: Sequence[int], count: int, pick: Pick) -> list[int]:
        self._back(len(self.tokens) - 1)
        self._mark, self._marked = self._rewind.mark(), self._held
        pending = [*self.tokens[self._held :], *forced]
        known = list(forced)
        guesses: list[int] = []
        while len(guesses) < min(count, self.num_tokens):
            token = pick(self._feed(pending))
            if token is None:
                break
            guesses.append(token)
            pending = [token]
        # The states hold all guesses but the last.
        self._guesses = [*known, *guesses[:-1]] if guesses else known
        return guesses

    def settle(self) -> None:
        self._back(len(self.tokens) - 1)
        self._feed(self.tokens[self._held : -1])

    def _back(self, most: int) -> None:
        """Takes back what turned out wrong, and all past `most` tokens."""
        certain = self._held - len(self._guesses)
        right = 0
        for guess, token in zip(self._guesses, self.tokens[certain:], strict=False):
            if guess != token:
                break
            right += 1
        wanted = min(certain + right, most)
        if wanted < self._held:
            if not self._rewind.to(self._mark, wanted - self._marked):
                self._rewind.to(self._mark, 0)
                wanted = self._marked
            self._held = wanted
        self._guesses = []

    def _feed(self, tokens: Sequence[int]) -> mx.array:
        """Computes certain tokens or guesses; logits (1, V) after the last."""
        out = None
        for start in range(0, len(tokens), _CHUNK):
            piece = mx.array([list(tokens[start : start + _CHUNK])], mx.int32)
            out = self._hidden(piece, self.states)
            if start + _CHUNK < len(tokens):
                mx.eval([a for state in self.states for a in state.arrays()] or out)
        self._held += len(tokens)
        if out is None:
            return mx.zeros((1, 0))
        out = out[:, -1:]
        return (out if self._head is None else self._head(out))[:, -1]
