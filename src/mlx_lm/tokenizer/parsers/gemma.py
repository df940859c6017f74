"""Tool calls of Google's Gemma models: `call:name{key:value}`.

Formats, and where their facts come from:
- gemma4: `<|tool_call>call:f{a:<|"|>text<|"|>,n:1}<tool_call|>`. Templates: Gemma 4, all five versions.
- function_gemma: `<start_function_call>call:f{a:<escape>text<escape>}<end_function_call>`. Model card.

Strings stand for themselves between their quotes; a bare word that is no literal is a string.
"""

from __future__ import annotations

from collections.abc import Callable

from mlx_lm.tokenizer.parsers.session import Session, ToolFormat
from mlx_lm.tokenizer.parsers.source import Malformed, Reading
from mlx_lm.tokenizer.parsers.values import GEMMA4, GEMMA_FUNCTION, Dialect, read_value

__all__ = ["FORMATS"]


def _reader(dialect: Dialect, end: str) -> Callable[[Session, str], Reading[None]]:
    def read(session: Session, found: str) -> Reading[None]:
        source = session.source
        yield from source.skip_space()
        yield from source.expect("call:")
        while True:
            count = 1
            while (ahead := (yield from source.peek(count))) and len(ahead) == count and ahead[-1] not in "{<":
                count += 1
                if count > 260:
                    raise Malformed("not a name")
            if not ahead.endswith("{"):
                raise Malformed("no arguments")
            name = source.take(count - 1)
            session.start_call(name.strip())
            yield from read_value(source, dialect, session.arguments)
            session.end_call()
            yield from source.skip_space()
            if (yield from source.accept(end)):
                return
            yield from source.accept(",")
            yield from source.skip_space()
            if not (yield from source.accept("call:")):
                return

    return read


FORMATS: tuple[ToolFormat, ...] = (
    ToolFormat(
        "gemma4",
        "<|tool_call>",
        "<tool_call|>",
        _reader(GEMMA4, "<tool_call|>"),
        ignored=("<|tool_response>",),
        ends_reasoning=True,
    ),
    ToolFormat(
        "function_gemma",
        "<start_function_call>",
        "<end_function_call>",
        _reader(GEMMA_FUNCTION, "<end_function_call>"),
        ignored=("<start_function_response>",),
    ),
)
