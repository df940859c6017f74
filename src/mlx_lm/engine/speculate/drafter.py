"""`Drafter`: guesses the next tokens of one sequence. The runner checks them, so no drafter changes an answer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import mlx.core as mx

__all__ = ["Drafter", "Pick"]

# The likeliest allowed token of logits (1, V), which the next guess follows; None where nothing may follow.
Pick = Callable[[mx.array], int | None]


class Drafter(ABC):
    """Guesses for one sequence; `tokens` is all that it has so far, the engine appends to it.

    Args:
        tokens: what was there before, and the prompt.
    """

    def __init__(self, tokens: Sequence[int]):
        self.tokens = list(tokens)

    @abstractmethod
    def propose(self, forced: Sequence[int], count: int, pick: Pick) -> list[int]:
        """At most `count` tokens to follow `tokens` and `forced`, which is known to come next."""

    def prefilled(self, done: int, hidden: mx.array) -> None:
        """The model has computed `tokens[:done]`; `hidden` (1, n, D) are the final states of the latest n of them."""
        return

    def saw(self, hidden: mx.array) -> None:
        """Final states (1, n, D) of the model after the next n tokens, all of which are certain."""
        return

    def settle(self) -> None:
        """Brings states of its own to where the model's are: all tokens but the last."""
        return

    @property
    def nbytes(self) -> int:
        """Bytes of its own states."""
        return 0
