"""A request that is being computed."""

from dataclasses import dataclass, field

import mlx.core as mx

from ..grammar import Constraint
from ..nn.underway import Underway
from ..state import State
from .request import Request
from .rewind import Mark, Rewind
from .speculate.drafter import Drafter
from .speculate.gate import Gate

__all__ = ["ActiveSequence", "Ahead", "Piece", "Round"]


@dataclass
class Ahead:
    """A token that was sampled but not given out yet, and where the states stood before the step that made it.

    `tokens` (B,) holds those of all rows that were sampled together, so that they are read together; `row` is its own.
    """

    tokens: mx.array
    row: int
    logprobs: mx.array
    mark: Mark

    @property
    def token(self) -> mx.array:
        """The token (1,), not read."""
        return self.tokens if self.tokens.size == 1 else self.tokens[self.row : self.row + 1]


@dataclass(frozen=True)
class Round:
    """A step that gave out `given` tokens: where the states stood before it, and what it fed that was out already."""

    mark: Mark
    fed: list[int]
    given: int


@dataclass(frozen=True)
class Piece:
    """The next `length` prompt tokens, on their way through the layers, and where the states stood before them."""

    length: int
    work: Underway
    mark: Mark


@dataclass
class ActiveSequence:
    """A request, its states, and what was made of it so far. The states hold every token but the last.

    Recurrent states that went back because a guess was wrong lack the tokens of `backlog` too: the next step feeds it.
    """

    uid: int
    request: Request
    states: list[State]
    constraint: Constraint | None = None  # moved on by every token that is given out
    drafter: Drafter | None = None
    gate: Gate | None = None  # whether the drafter is worth asking
    done: int = 0  # prompt tokens computed
    piece: Piece | None = None  # of the prompt, while some layers have computed it and others have not
    generated: list[int] = field(default_factory=list)
    history: mx.array | None = None  # all tokens so far (n,), kept only for logits processors
    pending: mx.array | int | None = None  # the token that was not fed yet; an array (1,) while it was not read
    ahead: Ahead | None = None
    backlog: list[int] = field(default_factory=list)
    last_round: Round | None = None  # the latest step, where it gave out more than one token
    room: int | None = None  # most tokens that the next step may give out
    error: Exception | None = None  # what ended it
    _rewind: Rewind | None = None

    @property
    def remaining(self) -> int:
        return len(self.request.prompt) - self.done

    @property
    def nbytes(self) -> int:
        """Bytes of its states, and of its drafter's."""
        return sum(state.nbytes for state in self.states) + (0 if self.drafter is None else self.drafter.nbytes)

    @property
    def rewind(self) -> Rewind:
        """Of its states, which must be there."""
        if self._rewind is None:
            self._rewind = Rewind(self.states)
        return self._rewind

    def append(self, token: int) -> None:
        """Counts a token as given out."""
        self.generated.append(token)
        if self.drafter is not None:
            self.drafter.tokens.append(token)
