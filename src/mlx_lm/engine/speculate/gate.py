"""Whether speculation pays for one sequence: tried, judged, and rested. Pure Python."""

from .options import Probe

__all__ = ["Gate"]


class Gate:
    """Follows one sequence's guesses under a `Probe`; None lets everything through."""

    def __init__(self, probe: Probe | None, prompt_tokens: int):
        self._probe = probe
        self._never = probe is not None and prompt_tokens < probe.min_prompt
        self._accepted = self._misses = self._seen = 0
        self._rest = 0  # tokens until the next trial
        self._pause = probe.rest if probe is not None else 0

    @property
    def open(self) -> bool:
        """Whether the next step may guess."""
        return not self._never and self._rest <= 0

    def step(self, emitted: int, drafted: int, accepted: int) -> None:
        """Records a step that gave out `emitted` tokens."""
        if self._probe is None or self._never:
            return
        if self._rest > 0:
            self._rest -= emitted
            return
        self._seen += emitted
        self._accepted += accepted
        self._misses += drafted > 0 and accepted == 0
        if self._seen < self._probe.tokens:
            return
        judged = self._accepted + self._misses
        if judged and self._accepted < self._probe.threshold * judged:
            self._rest, self._pause = self._pause, 2 * self._pause
        self._accepted = self._misses = self._seen = 0
