"""The formats whose calls are JSON, in or after markers of their own.

Facts come from:
- granite (3.x): `<|tool_call|>[...]`, as quoted from its template; granite-20b: `<function_call> {...}`, its template.
- phi4_mini: `functools[...]` (template of vLLM) and `<|tool_call|>[...]<|/tool_call|>` (from knowledge).
- command_r: `<|START_ACTION|>[{"tool_name": ..., "parameters": ...}]<|END_ACTION|>`. Template: Command R7B.
  Command R and R+ write `Action: ```json [...]````: from knowledge.
- llama3: a bare object with "parameters", or the same after `<|python_tag|>`. Templates: Llama 3.1, 3.2.
- mistral: `[TOOL_CALLS][...]`, `[TOOL_CALLS]name[ARGS]{...}` and `[TOOL_CALLS]name[CALL_ID]id[ARGS]{...}`.
  Template generator of mistral-common 1.13.
- kimi_k2: sections of id and arguments. Template: Kimi K2 Thinking.
- deepseek_v3, V3.1: sections of name and arguments. Templates: DeepSeek V3, V3.1.
- nemotron: `<TOOLCALL>[...]</TOOLCALL>`: from knowledge.

JSON between `<tool_call>` stands in `tag_formats`, next to the other contents of that tag.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable

from mlx_lm.tokenizer.parsers.json_calls import json_arguments, json_calls, read_ahead, read_closing, read_json_tag
from mlx_lm.tokenizer.parsers.pythonic import read_arguments
from mlx_lm.tokenizer.parsers.session import Session, ToolFormat
from mlx_lm.tokenizer.parsers.source import SPACE, Malformed, Markers, Reading
from mlx_lm.tokenizer.parsers.values import JSON, read_members

__all__ = ["FORMATS"]

_HEAD = 512  # characters of a name or an id


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
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


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
        before = yield from read_ahead(source, SPACE)
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
    yield from read_closing(session, "<|tool_call_end|>")


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
        yield from read_closing(session, "```")
    yield from read_closing(session, "<｜tool▁call▁end｜>")  # noqa: RUF001


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
