"""Tool calls that are written with tags: a tag of the call, and one tag for each argument.

Contract: `read_tags` reads calls of one `Tags`. Values are plain text; the tool's schema says what they are, and
strings are passed on while they are written. A call needs its closing tag, or the beginning of it where the text ends:
without it, an argument may be missing.

This module does not know which format has which tags; `tag_formats` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from mlx_lm.tokenizer.parsers.json_calls import json_arguments
from mlx_lm.tokenizer.parsers.schema import TextValue
from mlx_lm.tokenizer.parsers.session import Session
from mlx_lm.tokenizer.parsers.source import Malformed, Markers, Reading
from mlx_lm.tokenizer.parsers.values import escape

__all__ = ["MAX_HEAD", "NAME", "Arguments", "Tags", "attributes", "read_call", "read_tags"]

MAX_HEAD = 512
_ATTRIBUTE = re.compile(r"""([\w\-]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
NAME = re.compile(r"[\w.\-:/]+")
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&"))


@dataclass(frozen=True)
class Tags:
    """The tags of one format.

    Attributes:
        call, call_end: the tag of a call, without what follows its name, and its closing tag.
        argument, argument_end: the same for an argument.
        head_end: what ends an opening tag.
        end: the closing tag of the list of calls; empty without a list.
        lines: a value stands on lines of its own: one line break at each end is not part of it.
        xml: values are XML text, with entities and CDATA.
        object: the tag of an argument that holds all arguments as one JSON object.
    """

    call: str
    call_end: str
    argument: str
    argument_end: str
    end: str = ""
    head_end: str = ">"
    lines: bool = False
    xml: bool = False
    object: str = ""
    object_end: str = ""

    @cached_property
    def head(self) -> Markers:
        return Markers((self.head_end,))

    @cached_property
    def value(self) -> Markers:
        return Markers((self.argument_end,))


class Arguments:
    """Writes the arguments of a session's call as one JSON object, one after the other."""

    def __init__(self, session: Session, tool: str) -> None:
        self._session = session
        self._tool = tool
        self._count = 0

    def begin(self, name: str, is_string: bool | None = None) -> TextValue:
        """The writer of the next argument's value."""
        self._session.arguments(f'{", " if self._count else "{"}"{escape(name)}": ')
        self._count += 1
        return TextValue(self._session.schemas.schema(self._tool, name), self._session.arguments, is_string)

    def end(self) -> None:
        self._session.arguments("}" if self._count else "{}")
        self._session.end_call()


def attributes(head: str) -> dict[str, str]:
    """What an opening tag says: `="a"`, `=a`, or attributes; the name comes under the key "name"."""
    head = head.strip()
    if head.startswith("="):
        return {"name": head[1:].strip().strip("\"'")}
    found = {
        m.group(1): _unescape(m.group(2) if m.group(2) is not None else m.group(3)) for m in _ATTRIBUTE.finditer(head)
    }
    name = next((found[key] for key in ("name", "tool", "key") if key in found), None)
    if name is None:
        raise Malformed("a tag without a name")
    return {**found, "name": name}


def _unescape(text: str) -> str:
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    return text


class _Lines:
    """Drops one line break at the beginning of a text and one at its end."""

    def __init__(self, sink: Callable[[str], None]) -> None:
        self._sink = sink
        self._first = True
        self._held = ""

    def add(self, piece: str) -> None:
        if self._first and piece:
            self._first = False
            piece = piece.removeprefix("\n")
        text = self._held + piece
        self._held = "\n" if text.endswith("\n") else ""
        if text := text.removesuffix("\n"):
            self._sink(text)


def read_tags(session: Session, tags: Tags) -> Reading[None]:
    """Reads calls and the end of their list."""
    source = session.source
    yield from source.skip_space()
    yield from source.expect(tags.call)
    while True:
        yield from read_call(session, tags)
        yield from source.skip_space()
        if tags.end and (yield from source.accept(tags.end)):
            return
        if not (yield from source.accept(tags.call)):
            return


def read_call(session: Session, tags: Tags, read: str = "") -> Reading[None]:
    """Reads a call from behind its opening tag; `read` are attributes that were read with the tag."""
    source = session.source
    head, _ = yield from source.text_until(tags.head, MAX_HEAD)
    name = attributes(read + head)["name"].strip()
    yield from source.skip_space()
    if tags.object and (yield from source.accept(tags.object)):
        yield from source.text_until(tags.head, MAX_HEAD)
        yield from json_arguments(source, session.arguments, lambda: session.start_call(name))
        yield from source.skip_space()
        yield from source.expect(tags.object_end)
        yield from source.skip_space()
        yield from source.expect(tags.call_end)
        return session.end_call()
    if not (yield from source.comes(tags.argument, tags.call_end)):
        raise Malformed("neither an argument nor the end of the call")
    session.start_call(name)
    arguments = Arguments(session, name)
    while not (yield from source.accept_end(tags.call_end, tags.argument)):
        yield from source.expect(tags.argument)
        yield from _read_argument(session, tags, arguments)
        yield from source.skip_space()
    arguments.end()


def _read_argument(session: Session, tags: Tags, arguments: Arguments) -> Reading[None]:
    source = session.source
    head, _ = yield from source.text_until(tags.head, MAX_HEAD)
    found = attributes(head)
    kind = found.get("string") or found.get("type")
    is_string = None if kind is None else kind in ("true", "string")
    value = arguments.begin(found["name"], is_string)
    if tags.xml:
        value.add((yield from _xml_text(session, tags)))
    else:
        sink = _Lines(value.add).add if tags.lines else value.add
        if (yield from source.until(tags.value, sink)) is None:
            raise Malformed("an argument without end")
    value.end()


_CDATA_END = Markers(("]]>",))


def _xml_text(session: Session, tags: Tags) -> Reading[str]:
    source, pieces = session.source, []
    markers = Markers((tags.argument_end, "<![CDATA["))
    cdata = False
    while True:
        part: list[str] = []
        found = yield from source.until(markers, part.append)
        text = _unescape("".join(part))
        if found is None:
            raise Malformed("an argument without end")
        if found == tags.argument_end:
            # White space around CDATA is layout; a value without CDATA stands for itself.
            pieces.append(text.strip() if cdata else text)
            return "".join(pieces)
        pieces.append(text.strip())
        cdata = True
        if (yield from source.until(_CDATA_END, pieces.append)) is None:
            raise Malformed("CDATA without end")
