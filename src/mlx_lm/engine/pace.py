"""How much work on a prompt fits into a step of running sequences. Pure Python: it sees counts and seconds."""

from dataclasses import dataclass, field

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
    Its size is steered by how long the last one took, and not by dividing that by its tokens; where a single layer
    takes longer than a step may, by that layer. Layers are unlike: attention holds most of the cost of a hybrid. What
    each takes is learned from steps that end at different ones.
    """

    stretch: float = 2.4
    parts: int = 1
    smallest: int = 2
    look_again: int = 16  # steps with a prompt between two without
    decode_seconds: float | None = None  # of a step without
    beside_seconds: float = 0.0  # of decoding in a step with
    size: float | None = None  # of the next piece, as steered
    token_seconds: float | None = None  # of the last prompt that was computed with nothing beside it
    _layers: list[float] = field(default_factory=list)  # seconds of each, in the latest piece that went through it
    _at: int = 0  # layers that the piece on its way went through
    _guessed: float = 0.0  # seconds that these were to take
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
        done = self._at + work.layers
        known = self._layers[self._at : done]
        guessed = sum(known)
        if guessed > 0:  # in proportion, so that what is known of single layers stays
            self._layers[self._at : done] = [seconds * work.seconds / guessed for seconds in known]
        self._guessed += guessed
        self._at = done
        if work.tokens:
            self._finished(work.tokens)

    def _finished(self, tokens: int) -> None:
        size, room = self._wanted(), self.parts * self._room
        if tokens >= int(size) or self._spent > room:  # the rest of a prompt that was quick says nothing
            taken = size if tokens >= int(size) else tokens
            layer = self._room / max(self._layers, default=self._spent)
            least = self.parts * self.smallest / taken  # with fewer, most of a layer's time is not for the tokens
            fits = min(room / self._spent, max(layer, least))
            self.size = max(taken * min(max(fits, 0.5), 1.5), self.smallest)
        self._last = (tokens, self._spent)
        self._at, self._spent, self._guessed = 0, 0.0, 0.0

    def piece(self, sequences: int) -> int:
        """Prompt tokens to begin with beside `sequences`; 0 when it is time for a step without."""
        if sequences != self._sequences or self._since >= self.look_again:
            return 0
        return int(self._wanted())

    def layers(self, tokens: int, count: int, done: int) -> int:
        """Of a model's `count` layers, after the first `done`, those for a piece of `tokens` in this step."""
        if done == 0:  # the piece before it may have been given up
            self._spent = self._guessed = 0.0
        self._at = done
        known, spent = self._last or (self._wanted(), self.parts * self._room)
        if len(self._layers) < count:
            self._layers[self._at :] = [spent / count] * (count - self._at)
        # as this piece has gone so far, or by its size: fewer tokens may cost no less
        slower = self._spent / self._guessed if self._guessed else max(tokens / known, 1.0)
        room, taken = self._room, 0
        for seconds in self._layers[self._at : count]:
            room -= seconds * slower
            if room < 0:
                break
            taken += 1
        return max(taken, 1)

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
