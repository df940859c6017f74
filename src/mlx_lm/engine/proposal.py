"""What a sequence's next step feeds beside its last token: tokens that a grammar forces, then guesses."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from ..errors import GrammarError
from ..grammar import Constraint
from .masks import mask_logits
from .sequence import ActiveSequence

__all__ = ["Proposal", "propose"]


@dataclass
class Proposal:
    """`tokens` are fed after the sequence's last one. The first of them, as far as `forced` goes, are certain.

    `forced` may be longer than what is fed: the step then gives out one more of it.
    """

    sequence: ActiveSequence
    tokens: list[int] = field(default_factory=list)
    forced: list[int] = field(default_factory=list)

    @property
    def certain(self) -> int:
        """How many tokens of the step are known to be followed by the next: no choice is made after them."""
        return len(self.sequence.backlog) + min(len(self.tokens), len(self.forced))

    @property
    def drafted(self) -> int:
        """How many of the tokens are guesses."""
        return max(len(self.tokens) - len(self.forced), 0)


def propose(sequence: ActiveSequence) -> Proposal:
    """The sequence's proposal; empty where nothing is known or guessed, or the step must be a single one.

    Raises:
        GrammarError: the constraint is at its end.
    """
    constraint, drafter = sequence.constraint, sequence.drafter
    if constraint is None and drafter is None:
        return Proposal(sequence)
    room, exact = sequence.room, sequence.rewind.exact_room()
    if exact is not None:
        exact -= len(sequence.backlog)
        room = exact if room is None else min(room, exact)
    forced = [] if constraint is None else constraint.forced()
    most = None if room is None else max(room - 1, 0)
    fed = forced if most is None else forced[:most]
    closed = sequence.gate is not None and not sequence.gate.open
    if drafter is None or closed or len(fed) < len(forced) or len(sequence.backlog) >= _BACKLOG:
        return Proposal(sequence, list(fed), forced)
    left = _MANY if most is None else most - len(fed)
    if left == 0:
        return Proposal(sequence, list(fed), forced)
    picker = _Picker(constraint, forced)
    try:
        guesses = drafter.propose(forced, left, picker.pick)
    finally:
        picker.back()
    if constraint is not None and guesses:
        guesses = guesses[: max(constraint.validate([*forced, *guesses]) - len(forced), 0)]
    return Proposal(sequence, [*fed, *guesses], forced)


_MANY = 1 << 30
_BACKLOG = 8  # tokens to be fed again, after which a step without guesses takes them in for good


class _Picker:
    """Chooses a drafter's guesses among those that the grammar allows, and takes the grammar back afterwards."""

    def __init__(self, constraint: Constraint | None, forced: Sequence[int]):
        self._constraint = constraint
        self._forced = forced
        self._moved = 0

    def pick(self, logits: mx.array) -> int | None:
        constraint = self._constraint
        if constraint is None:
            return int(mx.argmax(logits, axis=-1).item())  # type: ignore[arg-type]
        try:
            for token in self._forced[self._moved :]:
                self._accept(constraint, token)
            if constraint.done:
                return None
            token = int(mx.argmax(mask_logits(logits, [constraint.mask()]), axis=-1).item())  # type: ignore[arg-type]
            self._accept(constraint, token)
        except GrammarError:  # no guess from here; if it is a real end, the step itself will find it
            return None
        return token

    def back(self) -> None:
        if self._constraint is not None and self._moved:
            self._constraint.rollback(self._moved)

    def _accept(self, constraint: Constraint, token: int) -> None:
        constraint.accept(token)
        self._moved += 1
