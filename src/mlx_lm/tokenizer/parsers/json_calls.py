"""Tool calls that are JSON: {"name": ..., "arguments": {...}}, one or a list, between or after markers.

Formats, and where their facts come from:
- json_tools (Hermes, Qwen 2.5, Qwen 3, Granite 4): `<tool_call>` JSON `</tool_call>`. Template: Qwen 2.5, Qwen 3.
- longcat: the same between `<longcat_tool_call>`; newer models write argument tags there (see `tag_calls`). Public
  descriptions and transcripts only.
- granite (3.x): `<|tool_call|>[...]`, as quoted from its template; granite-20b: `<function_call> {...}`, its template.
- phi4_mini: `functools[...]` (template of vLLM) and `<|tool_call|>[...]<|/tool_call|>` (model card).
- command_r: `<|START_ACTION|>[{"tool_name": ..., "parameters": ...}]<|END_ACTION|>`. Template: Command R7B.
  Command R and R+ write `Action: ```json [...]````: from knowledge.
- llama3: a bare object with "parameters", or the same after `<|python_tag|>`. Templates: Llama 3.1, 3.2.
- mistral: `[TOOL_CALLS][...]`, `[TOOL_CALLS]name[ARGS]{...}` and `[TOOL_CALLS]name[CALL_ID]id[ARGS]{...}`.
  Template generator of mistral-common 1.13.
- kimi_k2: sections of id and arguments. Template: Kimi K2 Thinking.
- deepseek_v3, V3.1: sections of name and arguments. Templates: DeepSeek V3, V3.1.
- nemotron: `<TOOLCALL>[...]</TOOLCALL>`: from knowledge.

Arguments are passed on while they are written, as soon as the name is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from mlx_lm.tokenizer.parsers.session import Session, ToolFormat
from mlx_lm.tokenizer.parsers.source import SPACE, Malformed, Markers, Reading, Source
from mlx_lm.tokenizer.parsers.values import JSON, drive, read_key, read_members, read_string, read_value

__all__ = ["FORMATS", "json_arguments", "json_calls", "read_json_tag"]

_NAMES = frozenset(("name", "tool_name"))
_ARGUMENTS = frozenset(("arguments", "parameters", "args"))
_IDS = frozenset(("id",))  # Command R's "tool_call_id" only counts calls: it is no id for a conversation
_BARE_KEYS = _NAMES | _ARGUMENTS | _IDS | {"type", "function"}
_HEAD = 512  # characters of a name or an id


class _Call:
    """One JSON object that may be a call: its keys can come in any order."""

    def __init__(self, session: Session, bare: bool) -> None:
        self.session = session
        self.bare = bare  # nothing announced a call: the object must look like one of an offered tool
        self.name: str | None = None
        self.call_id: str | None = None
        self.early: str | None = None  # arguments that came before the name
        self.started = False

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
        elif key == "function" and self.name is None and (yield from source.comes("{")):
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


def _ahead(source: Source, characters: str) -> Reading[str]:
    """What comes next, as far as it is made of `characters`; it stays unread."""
    count = 1
    ahead = yield from source.peek(count)
    while len(ahead) == count < 64 and ahead[-1] in characters:
        count += 1
        ahead = yield from source.peek(count)
    return ahead[: count - 1]


def _closed(session: Session, end: str) -> Reading[bool]:
    """Reads the end marker after complete calls, and stray brackets before it. Whether it came."""
    source = session.source
    before = yield from _ahead(source, SPACE + "}]")
    found = bool(end) and bool((yield from source.comes(before + end)))
    if found:
        source.take(len(before + end))
    return found


def read_json_tag(session: Session, end: str) -> Reading[None]:
    """JSON calls up to `end`; there may be several objects."""
    source = session.source
    while True:
        yield from json_calls(session)
        if (yield from _closed(session, end)):
            return
        before = yield from _ahead(source, SPACE)
        if not (yield from source.comes(before + "{")):
            return


def _between(ends: dict[str, str]) -> Callable[[Session, str], Reading[None]]:
    return lambda session, found: read_json_tag(session, ends[found])


def _functools(session: Session, found: str) -> Reading[None]:
    if found != "functools":
        return (yield from read_json_tag(session, "<|/tool_call|>"))
    if not (yield from session.source.comes("[")):
        raise Malformed("the word in a text")
    yield from json_calls(session)


# -- Llama 3


def _llama_bare(session: Session) -> Reading[None]:
    source = session.source
    while (yield from source.comes("{")):
        yield from json_calls(session, bare=True)
        yield from source.skip_space()
        if (yield from source.accept(";")) or (yield from source.accept(",")):
            yield from source.skip_space()


def _llama_tag(session: Session, found: str) -> Reading[None]:
    source = session.source
    yield from source.skip_space()
    if not (yield from source.comes("{", "[")):
        return (yield from _llama_builtin(session))
    yield from json_calls(session)
    while True:
        yield from source.skip_space()
        if (yield from source.accept(";")) or (yield from source.accept(",")):
            yield from source.skip_space()
        if not (yield from source.comes("{")):
            return
        yield from json_calls(session)


_CALL = Markers((".call(",))


def _llama_builtin(session: Session) -> Reading[None]:
    """`brave_search.call(query="...")`: Llama's own tools."""
    from mlx_lm.tokenizer.parsers.pythonic import read_arguments

    name, _ = yield from session.source.text_until(_CALL, 64)
    if not name.isidentifier():
        raise Malformed("program text")
    yield from read_arguments(session, name)


# -- Mistral


_MISTRAL_HEAD = Markers(("[ARGS]", "[CALL_ID]", "{", "[TOOL_CALLS]"))


def _mistral(session: Session, found: str) -> Reading[None]:
    source = session.source
    yield from source.skip_space()
    if (yield from source.comes("[{", "[ ", "[\n", "[]", "{")):
        return (yield from json_calls(session))
    name, marker = yield from source.text_until(_MISTRAL_HEAD, _HEAD)
    call_id: str | None = None
    if marker == "[CALL_ID]":
        call_id, marker = yield from source.text_until(_MISTRAL_HEAD, _HEAD)
    if marker not in ("[ARGS]", "{"):
        raise Malformed("no arguments")
    start = lambda: session.start_call(name.strip(), (call_id or "").strip() or None)  # noqa: E731
    if marker == "[ARGS]":
        yield from json_arguments(source, session.arguments, start)
    else:  # the marker was lost
        start()
        yield from read_members(source, JSON, session.arguments)
    session.end_call()


def _mistral_id(name: str, index: int) -> str:
    """Mistral's templates accept ids of nine letters and digits only."""
    import secrets

    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") for _ in range(9))


# -- sections: Kimi K2, DeepSeek


def _sections(
    session: Session, found: str, begin: str, one: Callable[[Session], Reading[None]], end: str
) -> Reading[None]:
    """Calls that begin with `begin` each; `found` was the first of them or began the list."""
    source = session.source
    if found != begin:
        yield from source.skip_space()
        yield from source.expect(begin)
    while True:
        yield from one(session)
        before = yield from _ahead(source, SPACE)
        if not (yield from source.accept(before + begin)):
            yield from source.accept(before + end)
            return


_KIMI_ARGUMENTS = Markers(("<|tool_call_argument_begin|>", "<|tool_call_end|>"))


def _kimi_call(session: Session) -> Reading[None]:
    source = session.source
    head, marker = yield from source.text_until(_KIMI_ARGUMENTS, _HEAD)
    if marker == "<|tool_call_end|>":
        raise Malformed("no arguments")
    call_id = head.strip()
    name, colon, number = call_id.rpartition(":")
    name = name if colon and number.isdecimal() else call_id
    yield from json_arguments(
        source, session.arguments, lambda: session.start_call(name.removeprefix("functions."), call_id)
    )
    session.end_call()
    yield from _closed(session, "<|tool_call_end|>")


_SEP = Markers(("<｜tool▁sep｜>", "<｜tool▁call▁end｜>"))  # noqa: RUF001


def _deepseek_call(session: Session) -> Reading[None]:
    source = session.source
    head, marker = yield from source.text_until(_SEP, _HEAD)
    if marker.endswith("end｜>"):  # noqa: RUF001
        raise Malformed("no arguments")
    yield from source.skip_space()
    fenced = not (yield from source.comes("{"))
    if fenced:  # V3: the head is "function"; name and a fenced block follow
        if not head.strip().isidentifier():
            raise Malformed("not a kind of tool")
        head, marker = yield from source.text_until(Markers(("\n",)), _HEAD)
        yield from source.skip_space()
        fence = yield from source.accept("```")
        if fence:
            yield from source.accept("json")
    yield from json_arguments(source, session.arguments, lambda: session.start_call(head.strip()))
    session.end_call()
    if fenced:
        yield from _closed(session, "```")
    yield from _closed(session, "<｜tool▁call▁end｜>")  # noqa: RUF001


def _kimi(session: Session, found: str) -> Reading[None]:
    return _sections(session, found, "<|tool_call_begin|>", _kimi_call, "<|tool_calls_section_end|>")


def _deepseek(session: Session, found: str) -> Reading[None]:
    return _sections(session, found, "<｜tool▁call▁begin｜>", _deepseek_call, "<｜tool▁calls▁end｜>")  # noqa: RUF001


_COHERE_ENDS = {"<|START_ACTION|>": "<|END_ACTION|>", "Action: ```json": "```", "Action:```json": "```"}
_GRANITE_ENDS = {
    "<|tool_call|>": "<|/tool_call|>",
    "<function_call>": "</function_call>",
    "<tool_call>": "</tool_call>",
}

FORMATS: tuple[ToolFormat, ...] = (
    ToolFormat("granite", "<|tool_call|>", "", _between(_GRANITE_ENDS), tuple(_GRANITE_ENDS)),
    ToolFormat("phi4_mini", "functools", "", _functools, ("functools", "<|tool_call|>")),
    ToolFormat(
        "command_r",
        "<|START_ACTION|>",
        "<|END_ACTION|>",
        _between(_COHERE_ENDS),
        tuple(_COHERE_ENDS),
        ignored=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
        ends_reasoning=True,
    ),
    ToolFormat("llama3", "<|python_tag|>", "", _llama_tag, bare=_llama_bare),
    ToolFormat("mistral", "[TOOL_CALLS]", "", _mistral, ends_reasoning=True, new_id=_mistral_id),
    ToolFormat(
        "kimi_k2",
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        _kimi,
        ("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
        ends_reasoning=True,
        new_id=lambda name, index: f"functions.{name}:{index}",
    ),
    ToolFormat(
        "deepseek_v3",
        "<｜tool▁calls▁begin｜>",  # noqa: RUF001
        "<｜tool▁calls▁end｜>",  # noqa: RUF001
        _deepseek,
        ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),  # noqa: RUF001
        ends_reasoning=True,
    ),
    ToolFormat("nemotron", "<TOOLCALL>", "</TOOLCALL>", _between({"<TOOLCALL>": "</TOOLCALL>"})),
)
