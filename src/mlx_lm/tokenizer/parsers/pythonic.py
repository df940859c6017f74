"""Tool calls that are a Python list of calls: `[f(a=1, b="x"), g()]`.

Formats, and where their facts come from:
- pythonic (LFM2, LFM2.5): the list between `<|tool_call_start|>` and `<|tool_call_end|>`; a JSON list on request.
  Templates: LFM2, LFM2.5. They don't escape quotes in strings: a quote ends a string only where one may.
- llama_pythonic (Llama 3.2, 4): the bare list, at the beginning of the answer. From knowledge.

Positional arguments take the names of the tool's parameters. Nothing is evaluated.
"""

from __future__ import annotations

import re

from mlx_lm.tokenizer.parsers.json_calls import json_calls
from mlx_lm.tokenizer.parsers.session import Session, ToolFormat
from mlx_lm.tokenizer.parsers.source import Malformed, Reading
from mlx_lm.tokenizer.parsers.values import PYTHON, escape, read_value

__all__ = ["FORMATS", "read_arguments"]

_NAME = re.compile(r"[\w.\-]*")
_KEYWORD = re.compile(r"[^\W\d]\w*\s*=(?!=)")
_MAX_KEYWORD = 130


def _keyword(session: Session) -> Reading[str]:
    """The name before `=`, read; an empty string for a positional argument."""
    count = 1
    while True:
        ahead = yield from session.source.peek(count)
        if len(ahead) < count or count > _MAX_KEYWORD:
            return ""
        if not (ahead[-1].isalnum() or ahead[-1] in "_ \t"):
            break
        count += 1
    ahead = yield from session.source.peek(count + 1)
    found = _KEYWORD.match(ahead)
    if found is None:
        return ""
    session.source.take(found.end())
    return found.group()[:-1].rstrip()


def read_arguments(session: Session, name: str) -> Reading[None]:
    """Reads one call from behind its opening parenthesis."""
    source = session.source
    positions = list(session.schemas.names(name))
    yield from source.skip_space()
    session.start_call(name)
    separator = "{"
    while not (yield from source.accept(")")):
        key = yield from _keyword(session)
        if not key:
            if not positions:
                raise Malformed("an argument without a name")
            key = positions[0]
        if key in positions:
            positions.remove(key)
        session.arguments(f'{separator}"{escape(key)}": ')
        separator = ", "
        yield from read_value(source, PYTHON, session.arguments)
        yield from source.skip_space()
        if not (yield from source.accept(",")):
            yield from source.expect(")")
            break
        yield from source.skip_space()
    session.arguments("{}" if separator == "{" else "}")
    session.end_call()


def _list(session: Session, bare: bool) -> Reading[None]:
    source = session.source
    yield from source.expect("[")
    yield from source.skip_space()
    if not bare and (yield from source.accept("]")):
        return
    while True:
        name = yield from source.run(_NAME)
        if not name or (bare and not session.schemas.offers(name)):
            raise Malformed("not a call")
        yield from source.expect("(")
        yield from read_arguments(session, name)
        yield from source.skip_space()
        if not (yield from source.accept(",")):
            yield from source.accept("]")
            return
        yield from source.skip_space()


def _lfm2(session: Session, found: str) -> Reading[None]:
    source = session.source
    yield from source.skip_space()
    if (yield from source.comes("[{", "{", "[\n{")):
        yield from json_calls(session)
    else:
        yield from _list(session, bare=False)
    yield from source.skip_space()
    yield from source.accept("<|tool_call_end|>")


def _llama4(session: Session, found: str) -> Reading[None]:
    yield from session.source.skip_space()
    yield from _list(session, bare=False)
    yield from session.source.skip_space()
    yield from session.source.accept("<|python_end|>")


FORMATS: tuple[ToolFormat, ...] = (
    ToolFormat("pythonic", "<|tool_call_start|>", "<|tool_call_end|>", _lfm2, ends_reasoning=True),
    ToolFormat(
        "llama_pythonic", "<|python_start|>", "<|python_end|>", _llama4, bare=lambda session: _list(session, bare=True)
    ),
)
