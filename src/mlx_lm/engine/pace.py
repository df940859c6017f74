"""How much work on a prompt fits into a step of running sequences. Pure Python: it sees counts and seconds."""

from dataclasses import dataclass

__all__ = ["Pace", "Work"]


@dataclass(frozen=True)
class Work:
    """On a prompt, in one step: a piece went through `layers` in `seconds`; it has `tokens` and is done, or 0."""

    tokens: int
    layers: int
    seconds: float


@dataclass
class Pace:
    """How long things take, from the latest steps, to size the work on a prompt that running sequences can bear.

    A step with such work lasts about `stretch` times one without, which aims below the promised factor of 3, as costs
    measured lag behind. What a step without lasts is seen by taking one now and then: decoding is slower beside a
    prompt, whose states push the weights out of the caches, so steps with a prompt would let each other grow.

    A piece of a prompt costs a reading of all weights and of all that is held for the tokens before it, however short
    it is: far into a long prompt that is more than a step may last. Where the model can do so, a piece is therefore
    large enough for `parts` steps, each of which takes it through some layers; elsewhere it is one step's (`parts` 1).
    Its size is steered by how long the last one took, and not by dividing that by its tokens.
    """

    stretch: float = 2.4
    parts: int = 1
    smallest: int = 2
    look_again: int = 16  # steps with a prompt between two without
    decode_seconds: float | None = None  # of a step without
    beside_seconds: float = 0.0  # of decoding in a step with
    size: float | None = None  # of the next piece, as steered
    token_seconds: float | None = None  # of the last prompt that was computed with nothing beside it
    layer_seconds: float | None = None  # of the piece that is on its way
    _sequences: int = 0  # that `decode_seconds` is about
    _since: int = 0  # steps with a prompt since then
    _spent: float = 0.0  # on the piece that is on its way
    _last: tuple[float, float] | None = None  # tokens and seconds of the last piece beside running sequences

    def decoded(self, sequences: int, seconds: float) -> None:
        """Records a step without a prompt; slow ones count less, so that a hiccup does not make room for more work."""
        old, self._since = self.decode_seconds, 0
        if old is None or sequences != self._sequences:
            # a longer step for more sequences, at most by as much as these are more
            most = seconds if old is None else old * max(sequences / self._sequences, 1.0)
            self.decode_seconds = self.beside_seconds = min(seconds, most)
            self._sequences = sequences
        else:
            self.decode_seconds = old + (0.1 if seconds > old else 0.3) * (seconds - old)

    def prefilled(self, tokens: int, seconds: float) -> None:
        """Records a piece of a prompt with nothing beside it."""
        self.token_seconds = seconds / tokens

    def worked(self, work: Work, decoding: float) -> None:
        """Records a step with work on a prompt, in which decoding took `decoding` seconds."""
        self._since += 1
        self.beside_seconds += 0.3 * (decoding - self.beside_seconds)
        self._spent += work.seconds
        self.layer_seconds = work.seconds / work.layers
        if work.tokens:
            self._finished(work.tokens)

    def _finished(self, tokens: int) -> None:
        size, room = self._wanted(), self.parts * self._room
        if tokens >= int(size) or self._spent > room:  # the rest of a prompt that was quick says nothing
            taken = size if tokens >= int(size) else tokens
            self.size = max(taken * min(max(room / self._spent, 0.5), 1.5), self.smallest)
        self._last, self._spent, self.layer_seconds = (tokens, self._spent), 0.0, None

    def piece(self, sequences: int) -> int:
        """Prompt tokens to begin with beside `sequences`; 0 when it is time for a step without."""
        if sequences != self._sequences or self._since >= self.look_again:
            return 0
        return int(self._wanted())

    def layers(self, tokens: int, count: int) -> int:
        """Of a model's `count` layers, those to take a piece of `tokens` through in this step."""
        seconds = self.layer_seconds
        if seconds is None:  # the first: as the last piece, or as this one was sized; fewer tokens may cost no less
            known, spent = self._last or (self._wanted(), self.parts * self._room)
            seconds = spent * max(tokens / known, 1.0) / count
        return max(min(int(self._room / seconds), count), 1) if seconds > 0 else 1

    @property
    def _room(self) -> float:
        """Seconds for a prompt in a step."""
        alone = self.decode_seconds or 0.0
        return max(self.stretch * alone - self.beside_seconds, alone / 4)

    def _wanted(self) -> float:
        if self.size is None:
            if self.decode_seconds is None or not self.token_seconds:
                return self.smallest
            # half of what fits as if tokens cost as little in a small piece as in a large one
            self.size = max(self.parts * self._room / self.token_seconds / 2, self.smallest)
        return self.size
