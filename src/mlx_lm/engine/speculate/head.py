"""Guesses of a model's own next-token head (multi-token prediction). See `nn.mtp`."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ..rewind import Rewind
from .drafter import Drafter, Pick

__all__ = ["HeadDrafter"]

_MOST_WAITING = 32  # steps whose final states are kept before the head takes them in


class HeadDrafter(Drafter):
    """Feeds the head the model's final states with the tokens that followed them.

    What a prefix cache knew was not computed, so the head has not seen it: its history then begins later, which costs
    a few right guesses and nothing else.
    """

    def __init__(self, tokens: Sequence[int], model: Any, states: Sequence[Any], num_tokens: int):
        super().__init__(tokens)
        self.num_tokens = num_tokens
        self.states = list(states)
        self._model = model
        self._rewind = Rewind(self.states)
        self._waiting: list[mx.array] = []  # final states whose next token the head has not been told
        self._next = 0  # the position of that token, of the first of them

    @property
    def nbytes(self) -> int:
        return sum(state.nbytes for state in self.states)

    def prefilled(self, done: int, hidden: mx.array) -> None:
        if not self._waiting:
            self._next = done - hidden.shape[1] + 1
        self._waiting.append(hidden)
        if done < len(self.tokens):
            mx.eval(self._catch_up())

    def saw(self, hidden: mx.array) -> None:
        if len(self._waiting) >= _MOST_WAITING:  # nobody has asked for guesses for a while
            mx.eval(self._catch_up())
        if not self._waiting:
            self._next = len(self.tokens) - hidden.shape[1]
        self._waiting.append(hidden)

    def propose(self, forced: Sequence[int], count: int, pick: Pick) -> list[int]:
        if forced or not self._waiting:  # the model has not been where the guess would start
            return []
        out = self._catch_up()[:, -1:]
        mark = self._rewind.mark()
        guesses: list[int] = []
        while True:
            token = pick(self._model.logits(out)[:, -1])
            if token is not None:
                guesses.append(token)
            if token is None or len(guesses) >= min(count, self.num_tokens):
                break
            out = self._model.draft(out, mx.array([[token]], mx.int32), self.states)
        self._rewind.to(mark, 0)
        return guesses

    def _catch_up(self) -> mx.array:
        """Tells the head all that is certain; its states (1, n, D) there."""
        hidden = self._waiting[0] if len(self._waiting) == 1 else mx.concatenate(self._waiting, axis=1)
        count = hidden.shape[1]
        tokens = mx.array([self.tokens[self._next : self._next + count]], mx.int32)
        self._waiting = []
        return self._model.draft(hidden, tokens, self.states)
