"""Text that arrives in pieces, read as if it were whole.

Contract: the methods of `Source` are coroutines (`yield from source.peek(3)`) that pause while the text that
they need has not come. What they return depends on the characters of the whole text alone, never on how it was cut; a
parser written with them gives the same result for every cut. Every method returns less than asked for at the end.

This module does not know any format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from typing import TypeAlias, TypeVar

__all__ = ["SPACE", "SPACES", "Malformed", "Markers", "Reading", "Source"]

T = TypeVar("T")
Reading: TypeAlias = Generator[None, None, T]
SPACE = " \t\r\n"
SPACES = re.compile(r"[ \t\r\n]*")


class Malformed(Exception):
    """The text at hand is not what the format asks for. Never leaves the parsers."""


class Markers:
    """Strings to stop at. None may begin with another one: which of them came would depend on what follows."""

    def __init__(self, strings: Iterable[str]) -> None:
        self.strings = tuple(dict.fromkeys(strings))
        for one in self.strings:
            if not one or any(other != one and other.startswith(one) for other in self.strings):
                raise ValueError(f"marker {one!r} begins another marker")
        self.longest = max(map(len, self.strings), default=0)
        self._first = frozenset(one[0] for one in self.strings)
        self.pattern = re.compile("|".join(map(re.escape, self.strings)) or r"(?!)")

    def partial(self, text: str, start: int) -> int:
        """Where the end of `text` may be the beginning of a marker; the length of `text` if nowhere."""
        for at in range(max(start, len(text) - self.longest + 1), len(text)):
            if text[at] in self._first and any(one.startswith(text[at:]) for one in self.strings):
                return at
        return len(text)


class Source:
    """The text that has come and is not read yet."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._record: list[str] | None = None
        self.closed = False

    def feed(self, text: str) -> None:
        self._text = self._text[self._at :] + text
        self._at = 0

    def close(self) -> None:
        """No more text will come."""
        self.closed = True

    # -- what was read, for when it turns out not to be a call

    def record(self, first: str = "") -> None:
        """Keeps from here on what is read; `first` stands at its beginning."""
        self._record = [first]

    def recorded(self) -> str:
        """What was read since `record`; ends it."""
        text, self._record = "".join(self._record or ()), None
        return text

    def _take(self, end: int) -> str:
        text, self._at = self._text[self._at : end], end
        if self._record is not None and text:
            self._record.append(text)
        return text

    # -- reading

    def peek(self, count: int = 1) -> Reading[str]:
        """The next `count` characters, which stay unread."""
        while len(self._text) - self._at < count and not self.closed:
            yield
        return self._text[self._at : self._at + count]

    def take(self, count: int) -> str:
        """Reads characters that `peek` has shown."""
        return self._take(min(self._at + count, len(self._text)))

    def accept(self, text: str) -> Reading[bool]:
        """Reads `text` if it is what comes next."""
        if (yield from self.comes(text)):
            self.take(len(text))
            return True
        return False

    def comes(self, *choices: str) -> Reading[str]:
        """The first of `choices` that comes next, unread; an empty string if none does."""
        for text in choices:
            for count in range(1, len(text) + 1):  # a mismatch is known before all characters have come
                if (yield from self.peek(count)) != text[:count]:
                    break
            else:
                return text
        return ""

    def accept_end(self, text: str, unlike: str) -> Reading[bool]:
        """As `accept`, and so is the beginning of `text` where the whole text ends; not one that `unlike` shares."""
        if (yield from self.accept(text)):
            return True
        rest = yield from self.peek(len(text))
        if rest and len(rest) < len(text) and text.startswith(rest) and not unlike.startswith(rest):
            self.take(len(rest))
            return True
        return False

    def expect(self, text: str) -> Reading[None]:
        """Reads `text`; Malformed if something else comes."""
        if not (yield from self.accept(text)):
            raise Malformed(f"expected {text!r}")

    def run(self, pattern: re.Pattern[str], sink: Callable[[str], None] | None = None) -> Reading[str]:
        """Reads all characters that `pattern`, a repeated character class, matches. With a sink: gives "" ."""
        parts: list[str] = []
        while True:
            found = pattern.match(self._text, self._at)
            end = found.end() if found else self._at
            whole = end < len(self._text)
            piece = self._take(end)
            if sink is None:
                parts.append(piece)
            elif piece:
                sink(piece)
            if whole or self.closed:
                return "".join(parts)
            yield

    def skip_space(self) -> Reading[None]:
        yield from self.run(SPACES)

    def until(self, markers: Markers, sink: Callable[[str], None]) -> Reading[str | None]:
        """Reads up to and including the first marker. The text before it goes to `sink`; the marker is returned.

        None at the end of the text.
        """
        while True:
            text, start = self._text, self._at
            found = markers.pattern.search(text, start)
            held = len(text) if self.closed else markers.partial(text, start)
            if found and found.start() <= held:
                if found.start() > start:
                    sink(self._take(found.start()))
                return self._take(found.end())
            if held > start:
                sink(self._take(held))
            if self.closed:
                return None
            yield

    def text_until(self, markers: Markers, limit: int) -> Reading[tuple[str, str]]:
        """The text before the first marker and the marker.

        Malformed, and nothing read, if no marker comes within `limit` characters.
        """
        size = limit + markers.longest
        while True:
            window = self._text[self._at : self._at + size]
            ended = self.closed or len(window) == size
            found = markers.pattern.search(window)
            if found and found.start() <= limit and (ended or found.start() <= markers.partial(window, 0)):
                self._take(self._at + found.end())
                return window[: found.start()], found.group()
            if ended:
                raise Malformed("no marker")
            yield
