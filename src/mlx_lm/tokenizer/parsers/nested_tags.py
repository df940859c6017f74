"""Tool calls of MiniMax M3: tags named after the arguments, behind a token of their own, nested for objects and lists.

`]<]minimax[>[<invoke name="f">]<]minimax[>[<a>..]<]minimax[>[</a>`: from public transcripts. Elements of one name are a
list, others an object; an element with nothing in it is an empty string.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_lm.tokenizer.parsers.schema import as_json
from mlx_lm.tokenizer.parsers.session import Session, ToolFormat
from mlx_lm.tokenizer.parsers.source import Malformed, Markers, Reading
from mlx_lm.tokenizer.parsers.tag_calls import MAX_HEAD, NAME, Arguments, attributes
from mlx_lm.tokenizer.parsers.values import escape

__all__ = ["FORMATS"]

_TOKEN = "]<]minimax[>["
_NEXT = Markers((_TOKEN,))
_HEAD = Markers((">",))
_MAX_DEPTH = 32


def _read(session: Session, found: str) -> Reading[None]:
    source = session.source
    yield from source.skip_space()
    yield from source.expect(_TOKEN + "<invoke")
    while True:
        head, _ = yield from source.text_until(_HEAD, MAX_HEAD)
        name = attributes(head)["name"].strip()
        yield from source.skip_space()
        yield from source.expect(_TOKEN)
        tag = yield from _tag(session)
        session.start_call(name)
        arguments = Arguments(session, name)
        while tag != "/invoke":
            if tag.startswith("/"):
                raise Malformed("a closing tag")
            value = yield from _value(session, tag, 0)
            writer = arguments.begin(tag, None if isinstance(value, str) else False)
            writer.add(value if isinstance(value, str) else _children_json(value, session.schemas.schema(name, tag)))
            writer.end()
            yield from source.skip_space()
            yield from source.expect(_TOKEN)
            tag = yield from _tag(session)
        arguments.end()
        yield from source.skip_space()
        if (yield from source.accept(_TOKEN + "</tool_call>")) or not (yield from source.accept(_TOKEN + "<invoke")):
            return


def _tag(session: Session) -> Reading[str]:
    yield from session.source.expect("<")
    tag, _ = yield from session.source.text_until(_HEAD, MAX_HEAD)
    if not NAME.fullmatch(tag):
        raise Malformed("not a tag")
    return tag


def _value(session: Session, tag: str, depth: int) -> Reading[str | list[tuple[str, object]]]:
    """The text of an element, or its child elements."""
    if depth > _MAX_DEPTH:
        raise Malformed("nested too deeply")
    source, text, children = session.source, [], []
    while True:
        if (yield from source.until(_NEXT, text.append)) is None:
            raise Malformed("an element without end")
        inner = yield from _tag(session)
        if inner == "/" + tag:
            return children or "".join(text)
        if inner.startswith("/"):
            raise Malformed("a closing tag")
        children.append((inner, (yield from _value(session, inner, depth + 1))))


def _children_json(children: object, schema: Mapping[str, Any]) -> str:
    if isinstance(children, str):
        return as_json(children, schema)
    assert isinstance(children, list)
    names = [name for name, _ in children]
    if set(names) == {"item"} or (len(names) > 1 and len(set(names)) == 1):
        inner = _mapping(schema.get("items"))
        return f"[{', '.join(_children_json(value, inner) for _, value in children)}]"
    properties = _mapping(schema.get("properties"))
    members = ((name, _children_json(value, _mapping(properties.get(name)))) for name, value in children)
    return "{" + ", ".join(f'"{escape(name)}": {value}' for name, value in members) + "}"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


FORMATS: tuple[ToolFormat, ...] = (
    ToolFormat("minimax_m3", _TOKEN + "<tool_call>", _TOKEN + "</tool_call>", _read, ends_reasoning=True),
)
