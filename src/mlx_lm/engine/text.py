"""From a request's tokens to its text: incremental detokenization and stop strings. Imports no MLX."""

from collections.abc import Sequence
from typing import Protocol

from ..errors import RequestError

__all__ = ["Detokenizer", "StopSequences", "TextStream", "check_stop_strings"]


class Detokenizer(Protocol):
    """What a streaming detokenizer offers."""

    def add_token(self, token: int) -> None: ...

    def finalize(self) -> None: ...

    @property
    def last_segment(self) -> str: ...


def check_stop_strings(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """The stop strings as a tuple; RequestError for anything that is not a non-empty string."""
    strings = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
    for s in strings:
        if not isinstance(s, str) or not s:
            raise RequestError(f"stop must be a string or a list of non-empty strings; got {s!r}.")
    return strings


class TextStream:
    """Text segments of one request; ends at the first stop string, which is not part of the text."""

    def __init__(self, detokenizer: Detokenizer | None, stop: Sequence[str] = ()):
        self._detokenizer = detokenizer
        self._stop = tuple(stop)
        self._held = ""  # text that may be the beginning of a stop string
        self.stopped: str | None = None  # the stop string that ended the text

    def add(self, token: int) -> str:
        """The text that `token` completes."""
        if self._detokenizer is None or self.stopped is not None:
            return ""
        self._detokenizer.add_token(token)
        return self._emit(self._detokenizer.last_segment)

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        if self._detokenizer is None or self.stopped is not None:
            return ""
        self._detokenizer.finalize()
        text = self._emit(self._detokenizer.last_segment)
        if self.stopped is None:
            text, self._held = text + self._held, ""
        return text

    def _emit(self, segment: str) -> str:
        if not self._stop:
            return segment
        text = self._held + segment
        found = [(i, s) for s in self._stop if (i := text.find(s)) >= 0]
        if found:
            at, self.stopped = min(found, key=lambda f: (f[0], -len(f[1])))
            self._held = ""
            return text[:at]
        keep = max(_overlap(text, s) for s in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0


class StopSequences:
    """Token sequences that end generation; `matcher()` follows one request."""

    def __init__(self, sequences: Sequence[Sequence[int]]):
        self.sequences = tuple(tuple(s) for s in sequences if len(s))
        self.longest = max((len(s) for s in self.sequences), default=0)

    def matcher(self) -> "_Matcher":
        return _Matcher(self)


class _Matcher:
    def __init__(self, stops: StopSequences):
        self._stops = stops
        self._recent: tuple[int, ...] = ()

    def advance(self, token: int) -> bool:
        """Whether a sequence ends with this token."""
        self._recent = (*self._recent, token)[-self._stops.longest :] if self._stops.longest else ()
        return any(self._recent[-len(s) :] == s for s in self._stops.sequences)
