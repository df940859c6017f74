"""A live request and the bytes that are reserved for it."""

from dataclasses import dataclass
from typing import Any

import mlx.nn as nn

from .admission import STEP_TOKENS, Admission
from .model_states import predict
from .request import Request
from .sequence import ActiveSequence
from .speculate.make import drafter_bytes

__all__ = ["Live", "Reservations"]


@dataclass
class Live:
    """A request between `Engine.add` and its end."""

    sequence: ActiveSequence
    stops: Any
    held: int  # tokens in the states before this request's prompt
    reserved: int = 0  # bytes
    reserved_tokens: int = 0
    cached: int = 0  # prompt tokens that the prefix cache knew
    started: bool = False

    @property
    def request(self) -> Request:
        return self.sequence.request

    @property
    def given_back(self) -> bool:
        """Whether the caller gets the states."""
        return self.request.keep_states or self.request.states is not None

    @property
    def tokens(self) -> int:
        """Tokens that the sequence has, the last not yet in its states."""
        return self.held + len(self.sequence.request.prompt) + len(self.sequence.generated)

    @property
    def stored(self) -> int:
        """Tokens that its states hold."""
        if self.sequence.generated:
            return self.tokens - 1
        return self.held + self.sequence.done


class Reservations(Admission):
    """Reserves bytes for requests of one model, from their declared limits.

    Args:
        budget: bytes in all; None for no limit.
        limit: tokens that the model's context holds, or None.
    """

    def __init__(self, model: nn.Module, budget: int | None, limit: int | None):
        super().__init__(budget)
        self._model = model
        self._limit = limit

    def bytes(self, tokens: int, request: Request) -> int:
        """Predicted bytes of a request's states after `tokens` tokens, its drafter's too."""
        own = predict(self._model, tokens, request.kv)
        return own + drafter_bytes(self._model, request.speculation, tokens, request.kv)

    def first_tokens(self, held: int, request: Request) -> int:
        """Tokens that a request reserves before it starts."""
        new = STEP_TOKENS if request.max_tokens is None else request.max_tokens
        wanted = held + len(request.prompt) + new
        return wanted if self._limit is None else min(wanted, self._limit)

    def start(self, live: Live) -> bool:
        """Reserves what a request needs to begin, if it can be had now."""
        tokens = self.first_tokens(live.held, live.request)
        needed = self.bytes(tokens, live.request)
        if not self.reserve(needed):
            return False
        live.reserved, live.reserved_tokens = needed, tokens
        return True

    def go_on(self, live: Live) -> bool:
        """Whether one more token fits the reservation, or another piece of memory can be had."""
        if self.budget is None or live.tokens < live.reserved_tokens:
            return True
        tokens = live.reserved_tokens + STEP_TOKENS
        needed = self.bytes(tokens, live.request)
        if not self.reserve(max(needed - live.reserved, 0)):
            return False
        live.reserved, live.reserved_tokens = max(needed, live.reserved), tokens
        return True
