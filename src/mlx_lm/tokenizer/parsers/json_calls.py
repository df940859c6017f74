"""One call, or a list of calls, as JSON: {"name": ..., "arguments": {...}}.

Contract: arguments are passed on while they are written, as soon as the name is known. Keys can come in any order and
under the names that models use for them; arguments may also be JSON inside a string. `bare` is for text that no marker
announces as a call: it must look like a call of a tool that was offered.

This module does not know the markers of formats; `json_formats` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from mlx_lm.tokenizer.parsers.session import Session
from mlx_lm.tokenizer.parsers.source import SPACE, Malformed, Reading, Source
from mlx_lm.tokenizer.parsers.values import JSON, drive, read_key, read_string, read_value

__all__ = ["json_arguments", "json_calls", "read_ahead", "read_closing", "read_json_tag"]

_NAMES = frozenset(("name", "tool_name"))
_ARGUMENTS = frozenset(("arguments", "parameters", "args"))
_IDS = frozenset(("id",))  # Command R's "tool_call_id" only counts calls: it is no id for a conversation
_BARE_KEYS = _NAMES | _ARGUMENTS | _IDS | {"type", "function"}


class _Call:
    """One JSON object that may be a call: its keys can come in any order."""

    def __init__(self, session: Session, bare: bool) -> None:
        self.session = session
        self.bare = bare  # nothing announced a call: the object must look like one of an offered tool
        self.name: str | None = None
        self.call_id: str | None = None
        self.early: str | None = None  # arguments that came before the name
        self.started = False
        self.nested = False  # inside {"function": {...}}, which nests once

    def start(self) -> None:
        assert self.name is not None
        if self.bare and not self.session.schemas.offers(self.name):
            raise Malformed("no such tool")
        self.session.start_call(self.name, self.call_id)
        self.started = True

    def read(self) -> Reading[None]:
        """Reads the object. A closing brace may be missing once the arguments are complete."""
        source = self.session.source
        yield from source.expect("{")
        yield from source.skip_space()
        while not (yield from source.accept("}")):
            yield from self._member()
            yield from source.skip_space()
            if not (yield from source.accept(",")):
                if (yield from source.accept("}")) or self.started:
                    break
                raise Malformed("an object without end")
            yield from source.skip_space()
        self._finish()

    def _finish(self) -> None:
        if not self.started:
            if self.name is None or (self.early is None and self.bare):
                raise Malformed("no call")
            self.start()
            self.session.arguments(self.early or "{}")
        self.session.end_call()

    def _member(self) -> Reading[None]:
        source = self.session.source
        key = json.loads((yield from _collected(lambda sink: read_key(source, JSON, sink))))
        if self.bare and self.name is None and key not in _BARE_KEYS:
            raise Malformed("an object of another kind")  # at once: the answer is JSON, and is waited for
        yield from source.skip_space()
        if key in _NAMES and self.name is None:
            self.name = yield from _text(source)
            if self.early is not None:
                self.start()
                self.session.arguments(self.early)
        elif key in _ARGUMENTS and not self.started and self.early is None:
            if self.name is None:
                self.early = yield from _collected(lambda sink: json_arguments(source, sink))
            else:
                yield from json_arguments(source, self.session.arguments, self.start)
        elif key in _IDS and self.call_id is None and (yield from source.comes('"')):
            self.call_id = yield from _text(source)
        elif key == "function" and not self.nested and self.name is None and (yield from source.comes("{")):
            self.nested = True
            yield from self._nested()
        elif key == "function" and self.name is None and (yield from source.comes('"')):
            self.name = yield from _text(source)
        else:
            yield from read_value(source, JSON, lambda piece: None)

    def _nested(self) -> Reading[None]:
        source = self.session.source
        yield from source.expect("{")
        yield from source.skip_space()
        while not (yield from source.accept("}")):
            yield from self._member()
            yield from source.skip_space()
            if not (yield from source.accept(",")):
                return (yield from source.expect("}"))
            yield from source.skip_space()


def _collected(read: Callable[[Callable[[str], None]], Reading[None]]) -> Reading[str]:
    pieces: list[str] = []
    yield from read(pieces.append)
    return "".join(pieces)


def _text(source: Source) -> Reading[str]:
    if not (yield from source.comes('"')):
        raise Malformed("not a string")
    return json.loads((yield from _collected(lambda sink: read_string(source, JSON, '"', sink))))


def json_arguments(
    source: Source, sink: Callable[[str], None], start: Callable[[], None] | None = None
) -> Reading[None]:
    """Reads arguments: an object, an object in a string, or null. `start` is called when they are known to be one."""
    yield from source.skip_space()
    text: str | None = None
    if (yield from source.comes('"')):
        inner = Source()
        inner.feed((yield from _text(source)).strip() or "{}")
        pieces: list[str] = []
        if not drive(read_value(inner, JSON, pieces.append), inner):
            raise Malformed("arguments are not JSON")
        text = "".join(pieces)
    elif (yield from source.accept("null")):
        text = "{}"
    elif not (yield from source.comes("{")):
        raise Malformed("arguments are not an object")
    if text is not None and not text.startswith("{"):
        raise Malformed("arguments are not an object")
    if start is not None:
        start()
    if text is not None:
        return sink(text)
    yield from read_value(source, JSON, sink)


def json_calls(session: Session, bare: bool = False) -> Reading[None]:
    """Reads one call or a list of calls."""
    source = session.source
    yield from source.skip_space()
    if not (yield from source.accept("[")):
        return (yield from _Call(session, bare).read())
    yield from source.skip_space()
    while not (yield from source.accept("]")):
        yield from _Call(session, bare).read()
        yield from source.skip_space()
        if not (yield from source.accept(",")):
            yield from source.accept("]")
            return
        yield from source.skip_space()


def read_ahead(source: Source, characters: str) -> Reading[str]:
    """What comes next, as far as it is made of `characters`; it stays unread."""
    count = 1
    ahead = yield from source.peek(count)
    while len(ahead) == count < 64 and ahead[-1] in characters:
        count += 1
        ahead = yield from source.peek(count)
    return ahead[: count - 1]


def read_closing(session: Session, end: str) -> Reading[bool]:
    """Reads the end marker after complete calls, and stray brackets before it. Whether it came."""
    source = session.source
    before = yield from read_ahead(source, SPACE + "}]")
    found = bool(end) and bool((yield from source.comes(before + end)))
    if found:
        source.take(len(before + end))
    return found


def read_json_tag(session: Session, end: str) -> Reading[None]:
    """JSON calls up to `end`; there may be several objects."""
    source = session.source
    while True:
        yield from json_calls(session)
        if (yield from read_closing(session, end)):
            return
        before = yield from read_ahead(source, SPACE)
        if not (yield from source.comes(before + "{")):
            return
