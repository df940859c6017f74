"""Tool calls that are written with tags: a tag of the call, and one tag for each argument.

Formats, and where their facts come from:
- qwen3_coder: `<tool_call><function=f><parameter=a>..</parameter></function></tool_call>`; also of Nemotron 3 and of
  seed_oss in `<seed:tool_call>`. Templates: Qwen 3.5, 3.6, 3.8, Nemotron 3, Seed-OSS.
- minimax_m2: `<minimax:tool_call><invoke name="f"><parameter name="a">..`. Template: MiniMax M2.
- minimax_m3: every tag behind `]<]minimax[>[`, the argument's name as its tag, nested objects as nested tags. Public
  transcripts only.
- deepseek_v32: `<｜DSML｜function_calls><｜DSML｜invoke name="f"><｜DSML｜parameter name="a" string="true">..`.
  Template: DeepSeek V3.2. V4 (`<｜DSML｜tool_calls>`): from knowledge.
- muse_spark: `<atem:function_calls><atem:invoke name="f"><atem:parameter name="a">..`. Template: Muse Glimmer.
- minicpm5: `<function name="f"><param name="a">..</param></function>` without markers around; CDATA. Bug reports of
  several projects that quote the template.
- kimi_k3 (XTML): `<|open|>call tool="f" index="1"<|sep|><|open|>argument key="a" type="string"<|sep|>..`. Template.
- glm47, laguna: `<tool_call>f<arg_key>a</arg_key><arg_value>..</arg_value></tool_call>`. Template: GLM 4.5; GLM 4.7 and
  5 leave the line breaks out. laguna: from knowledge.
- longcat: the same with `longcat_` before every tag. Public transcripts.

Values are plain text; `schema` says what they are. A call needs its closing tag: without it an argument may be missing.
"""  # noqa: RUF002

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from mlx_lm.tokenizer.parsers.json_calls import json_arguments, read_json_tag
from mlx_lm.tokenizer.parsers.schema import TextValue
from mlx_lm.tokenizer.parsers.session import Session, ToolFormat
from mlx_lm.tokenizer.parsers.source import Malformed, Markers, Reading
from mlx_lm.tokenizer.parsers.values import escape

__all__ = ["ATEM", "FORMATS", "Arguments", "Tags", "read_tags"]

_HEAD = 512
_ATTRIBUTE = re.compile(r"""([\w\-]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_NAME = re.compile(r"[\w.\-:/]+")
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


def _attributes(head: str) -> dict[str, str]:
    """`="a"`, `=a`, or attributes; the name comes under the key "name"."""
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
        yield from _read_call(session, tags)
        yield from source.skip_space()
        if tags.end and (yield from source.accept(tags.end)):
            return
        if not (yield from source.accept(tags.call)):
            return


def _read_call(session: Session, tags: Tags, read: str = "") -> Reading[None]:
    """Reads a call from behind its opening tag; `read` are attributes that were read with the tag."""
    source = session.source
    head, _ = yield from source.text_until(tags.head, _HEAD)
    name = _attributes(read + head)["name"].strip()
    yield from source.skip_space()
    if tags.object and (yield from source.accept(tags.object)):
        yield from source.text_until(tags.head, _HEAD)
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
    while not (yield from source.accept(tags.call_end)):
        yield from source.expect(tags.argument)
        yield from _read_argument(session, tags, arguments)
        yield from source.skip_space()
    arguments.end()


def _read_argument(session: Session, tags: Tags, arguments: Arguments) -> Reading[None]:
    source = session.source
    head, _ = yield from source.text_until(tags.head, _HEAD)
    found = _attributes(head)
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


# -- tags of keys and values: GLM, LongCat


def _read_keys(session: Session, prefix: str, end: str) -> Reading[None]:
    source = session.source
    key, key_end, value, value_end = (
        f"<{slash}{prefix}arg_{part}>" for part in ("key", "value") for slash in ("", "/")
    )
    markers = Markers((key, end))
    name, found = yield from source.text_until(markers, _HEAD)
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise Malformed("not a name")
    session.start_call(name)
    arguments = Arguments(session, name)
    while found != end:
        argument, _ = yield from source.text_until(Markers((key_end,)), _HEAD)
        yield from source.skip_space()
        yield from source.expect(value)
        writer = arguments.begin(argument.strip())
        if (yield from source.until(Markers((value_end,)), writer.add)) is None:
            raise Malformed("an argument without end")
        writer.end()
        yield from source.skip_space()
        found = yield from source.comes(key, end)
        yield from source.expect(found or end)
    arguments.end()


# -- MiniMax M3: tags named after the arguments, behind a token of their own


_M3 = "]<]minimax[>["
_M3_NEXT = Markers((_M3,))
_M3_HEAD = Markers((">",))
_M3_MAX_DEPTH = 32


def _read_m3(session: Session, found: str) -> Reading[None]:
    source = session.source
    yield from source.skip_space()
    yield from source.expect(_M3 + "<invoke")
    while True:
        head, _ = yield from source.text_until(_M3_HEAD, _HEAD)
        name = _attributes(head)["name"].strip()
        yield from source.skip_space()
        yield from source.expect(_M3)
        tag = yield from _m3_tag(session)
        session.start_call(name)
        arguments = Arguments(session, name)
        while tag != "/invoke":
            if tag.startswith("/"):
                raise Malformed("a closing tag")
            value = yield from _m3_value(session, tag, 0)
            writer = arguments.begin(tag, None if isinstance(value, str) else False)
            writer.add(value if isinstance(value, str) else _m3_json(value))
            writer.end()
            yield from source.skip_space()
            yield from source.expect(_M3)
            tag = yield from _m3_tag(session)
        arguments.end()
        yield from source.skip_space()
        if (yield from source.accept(_M3 + "</tool_call>")) or not (yield from source.accept(_M3 + "<invoke")):
            return


def _m3_tag(session: Session) -> Reading[str]:
    yield from session.source.expect("<")
    tag, _ = yield from session.source.text_until(_M3_HEAD, _HEAD)
    if not _NAME.fullmatch(tag):
        raise Malformed("not a tag")
    return tag


def _m3_value(session: Session, tag: str, depth: int) -> Reading[str | list[tuple[str, object]]]:
    """The text of an element, or its child elements."""
    if depth > _M3_MAX_DEPTH:
        raise Malformed("nested too deeply")
    source, text, children = session.source, [], []
    while True:
        if (yield from source.until(_M3_NEXT, text.append)) is None:
            raise Malformed("an element without end")
        inner = yield from _m3_tag(session)
        if inner == "/" + tag:
            return children or "".join(text)
        if inner.startswith("/"):
            raise Malformed("a closing tag")
        children.append((inner, (yield from _m3_value(session, inner, depth + 1))))


def _m3_json(children: object) -> str:
    from mlx_lm.tokenizer.parsers.schema import as_json

    if isinstance(children, str):
        return as_json(children, {})
    assert isinstance(children, list)
    values = [_m3_json(value) for _, value in children]
    names = [name for name, _ in children]
    if set(names) == {"item"} or (len(names) > 1 and len(set(names)) == 1):
        return f"[{', '.join(values)}]"
    return "{" + ", ".join(f'"{escape(name)}": {value}' for name, value in zip(names, values, strict=True)) + "}"


# -- the table


def _tags(tags: Tags) -> Callable[[Session, str], Reading[None]]:
    return lambda session, found: read_tags(session, tags)


def _qwen_tags(end: str, lines: bool) -> Tags:
    return Tags("<function", "</function>", "<parameter", "</parameter>", end, lines=lines)


_QWEN = _qwen_tags("</tool_call>", True)
_DSML = "｜DSML｜"  # noqa: RUF001
_MINICPM = Tags("<function", "</function>", "<param", "</param>", xml=True)
_XTML = Tags(
    "<|open|>call",
    "<|close|>call<|sep|>",
    "<|open|>argument",
    "<|close|>argument<|sep|>",
    "<|close|>tools<|sep|>",
    "<|sep|>",
    object="<|open|>json",
    object_end="<|close|>json<|sep|>",
)


def _tool_call(session: Session, found: str) -> Reading[None]:
    """`<tool_call>` with JSON or Qwen's tags in it: models trained on one write the other now and then."""
    yield from session.source.skip_space()
    if (yield from session.source.comes("{", "[")):
        yield from read_json_tag(session, "</tool_call>")
    else:
        yield from read_tags(session, _QWEN)


def _glm(session: Session, found: str) -> Reading[None]:
    yield from session.source.skip_space()
    if (yield from session.source.comes("{", "[", "<function")):
        yield from _tool_call(session, found)
    else:
        yield from _read_keys(session, "", "</tool_call>")


def _longcat(session: Session, found: str) -> Reading[None]:
    yield from session.source.skip_space()
    if (yield from session.source.comes("{", "[")):
        yield from read_json_tag(session, "</longcat_tool_call>")
    else:
        yield from _read_keys(session, "longcat_", "</longcat_tool_call>")


def _dsml(session: Session, found: str) -> Reading[None]:
    kind = found.removeprefix(f"<{_DSML}").removesuffix(">")
    names = (f"<{_DSML}invoke", f"</{_DSML}invoke>", f"<{_DSML}parameter", f"</{_DSML}parameter>")
    yield from read_tags(session, Tags(*names, end=f"</{_DSML}{kind}>"))


def _minicpm(session: Session, found: str) -> Reading[None]:
    yield from _read_call(session, _MINICPM, "name=")


ATEM = Tags("<atem:invoke", "</atem:invoke>", "<atem:parameter", "</atem:parameter>", "</atem:function_calls>")
_MINIMAX = Tags("<invoke", "</invoke>", "<parameter", "</parameter>", "</minimax:tool_call>")
_M3_START, _M3_END = _M3 + "<tool_call>", _M3 + "</tool_call>"
_DSML_START, _DSML_END = f"<{_DSML}function_calls>", f"</{_DSML}function_calls>"
_XTML_IGNORED = ("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>", "<|end_of_msg|>")

FORMATS: tuple[ToolFormat, ...] = (
    ToolFormat("json_tools", "<tool_call>", "</tool_call>", _tool_call),
    ToolFormat("qwen3_coder", "<tool_call>", "</tool_call>", _tool_call),
    ToolFormat("glm47", "<tool_call>", "</tool_call>", _glm),
    ToolFormat("laguna", "<tool_call>", "</tool_call>", _glm),
    ToolFormat("longcat", "<longcat_tool_call>", "</longcat_tool_call>", _longcat),
    ToolFormat("seed_oss", "<seed:tool_call>", "</seed:tool_call>", _tags(_qwen_tags("</seed:tool_call>", True))),
    ToolFormat("minimax_m2", "<minimax:tool_call>", "</minimax:tool_call>", _tags(_MINIMAX)),
    ToolFormat("minimax_m3", _M3_START, _M3_END, _read_m3, ends_reasoning=True),
    ToolFormat("minicpm5", "<function name=", "</function>", _minicpm),
    ToolFormat(
        "deepseek_v32", _DSML_START, _DSML_END, _dsml, (_DSML_START, f"<{_DSML}tool_calls>"), ends_reasoning=True
    ),
    ToolFormat(
        "kimi_k3",
        "<|open|>tools<|sep|>",
        "<|close|>tools<|sep|>",
        _tags(_XTML),
        ignored=_XTML_IGNORED,
        ends_reasoning=True,
    ),
)
