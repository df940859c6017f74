"""What a conversation has computed: its states, the tokens they hold, and marks to which they can go back.

Contract: before a prompt is computed, `rewind(tokens)` brings the states to the longest beginning of `tokens` that
they hold and says how long it is: by trimming where every state can, else by going back to the latest mark inside
it, else by starting anew. The result is always exact; only the work differs. The module does not know text.
"""

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Turns", "common_prefix", "prefill"]

_MAX_MARKS = 16  # a mark can keep an old window's arrays alive


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens `a` and `b` have in common at their beginning."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n


class Turns:
    """States of one conversation; with a draft model, those of both.

    Args:
        make: makes fresh states, a list for each model.
    """

    def __init__(self, make: Callable[[], list[list[Any]]]):
        self._make = make
        self._sides = make()
        self.tokens: list[int] = []
        self._marks: list[tuple[int, list[Any]]] = []

    @classmethod
    def saved(
        cls, states: list[Any], tokens: Sequence[int], make: Callable[[], list[list[Any]]] = lambda: [[]]
    ) -> "Turns":
        """Goes on from states of one model that exist already, and hold `tokens`."""
        turns = cls(make)
        turns._sides, turns.tokens = [states], list(tokens)
        return turns

    @property
    def sides(self) -> list[list[Any]]:
        """The states of each model."""
        return self._sides

    @property
    def states(self) -> list[Any]:
        """All states, the model's first."""
        return [state for side in self._sides for state in side]

    @property
    def trimmable(self) -> bool:
        """Whether tokens can be taken back one by one for ever: attention over everything, and nothing else."""
        from ..state import AttentionState
        from ..state.arrays import flatten

        return all(isinstance(s, AttentionState) and s.window is None for s in flatten(self.states))

    @property
    def held(self) -> int:
        """Tokens that the states of every model hold."""
        return min(max((state.offset for state in side), default=0) for side in self._sides)

    def reset(self) -> None:
        """Forgets everything."""
        self._sides, self.tokens, self._marks = self._make(), [], []

    def mark(self) -> None:
        """Remembers the present as a point to go back to."""
        if len({max((s.offset for s in side), default=0) for side in self._sides}) > 1:
            return  # a draft model's states may lag behind; both must stand at the same token
        self._marks = [m for m in self._marks if m[0] < self.held][-(_MAX_MARKS - 1) :]
        self._marks.append((self.held, [state.snapshot() for state in self.states]))

    def record(self, tokens: Sequence[int]) -> None:
        """`tokens`, from the first on, are what was computed; those that the states do not hold are ignored."""
        self.tokens = list(tokens)[: self.held]

    def rewind(self, tokens: Sequence[int]) -> int:
        """Brings the states to a beginning of `tokens`, at least one token shorter, and returns its length."""
        reach = common_prefix(self.tokens[: self.held], tokens[: len(tokens) - 1])
        extra = [max(state.offset - reach, 0) for state in self.states]
        if all(state.can_trim(n) for state, n in zip(self.states, extra, strict=True)):
            for state, n in zip(self.states, extra, strict=True):
                state.trim(n)
        else:
            reach = self._back_to_mark(reach)
        self._marks = [m for m in self._marks if m[0] <= reach]
        self.tokens = self.tokens[:reach]
        return reach

    def rewind_exactly(self, tokens: Sequence[int]) -> bool:
        """As `rewind`, but does nothing and returns False where the states cannot give back single tokens."""
        reach = common_prefix(self.tokens[: self.held], tokens[: len(tokens) - 1])
        if not all(state.can_trim(max(state.offset - reach, 0)) for state in self.states):
            return False
        self.rewind(tokens)
        return True

    def _back_to_mark(self, reach: int) -> int:
        inside = [m for m in self._marks if m[0] <= reach]
        if not inside:
            self.reset()
            return 0
        length, snapshots = inside[-1]
        for state, snapshot in zip(self.states, snapshots, strict=True):
            state.restore(snapshot)
        return length


def prefill(
    models: Sequence[Any],
    states: Sequence[list[Any]],
    tokens: Sequence[int],
    *,
    step: int,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Feeds tokens to each model's states without sampling anything."""
    import mlx.core as mx

    from ..engine.runner import hidden_and_head

    total = len(tokens) * len(models)
    done = 0
    for model, own in zip(models, states, strict=True):
        hidden, _ = hidden_and_head(model)
        for start in range(0, len(tokens), step):
            piece = list(tokens[start : start + step])
            out = hidden(mx.array([piece], mx.int32), own)
            mx.eval([a for state in own for a in state.arrays()] or out)
            mx.clear_cache()
            done += len(piece)
            if progress is not None:
                progress(done, total)
