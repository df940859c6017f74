"""Formats whose messages have a header: a channel, a recipient, then the text.

Formats, and where their facts come from:
- harmony (gpt-oss): `<|channel|>analysis<|message|>..<|end|><|start|>assistant<|channel|>commentary to=functions.f
  <|constrain|>json<|message|>{..}<|call|>`; the recipient may stand before the channel. Template: gpt-oss; OpenAI's
  description of the format.
- muse_spark: `<|start|>assistant to=self<|message|>..<|eom|>`, to=user, or to a tool, with ATEM tags in the text.
  Template: Muse Glimmer.

The prompt ends inside the first header (`<|start|>assistant`). Text without any header is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from mlx_lm.tokenizer.parsers.json_calls import json_arguments
from mlx_lm.tokenizer.parsers.session import Session, ToolFormat
from mlx_lm.tokenizer.parsers.source import SPACE, Malformed, Markers, Reading
from mlx_lm.tokenizer.parsers.tag_calls import read_tags
from mlx_lm.tokenizer.parsers.tag_formats import ATEM

__all__ = ["FORMATS"]

_HEAD = 300
_RECIPIENT = re.compile(r"to=([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*([a-z]+)")
_MESSAGE = Markers(("<|message|>",))


@dataclass(frozen=True)
class _Layout:
    """What begins a header, what ends a message, and who reads a header and its text."""

    heads: tuple[str, ...]
    ends: tuple[str, ...]
    body: Callable[[Session, str, tuple[str, ...]], Reading[str | None]]

    def read(self, session: Session) -> Reading[None]:
        source = session.source
        stop: str | None = ""
        while stop is not None:
            if stop != "<|channel|>" and (stop == "<|start|>" or (yield from source.accept("<|start|>"))):
                yield from source.accept("assistant")
            head = yield from self._head(session, "<|channel|>" if stop == "<|channel|>" else "")
            stop = yield from self.body(session, head, (*self.ends, "<|start|>"))

    def _head(self, session: Session, begun: str) -> Reading[str]:
        """The header with its end, or an empty string where none comes. `begun` is the part that was read."""
        source = session.source
        count = 1
        while (ahead := (yield from source.peek(count))) and len(ahead) == count and ahead[-1] in SPACE and count < 16:
            count += 1
        spaces = ahead[: len(ahead) - len(ahead.lstrip(SPACE))]
        if begun or (yield from source.comes(*(spaces + mark for mark in self.heads))):
            try:
                head, end = yield from source.text_until(_MESSAGE, _HEAD)
            except Malformed:
                session.output.text(begun)
                return ""
            return begun + head + end
        return ""


def _body_until(session: Session, stops: tuple[str, ...], sink: Callable[[str], None]) -> Reading[str | None]:
    return (yield from session.source.until(Markers(stops), sink))


def _harmony_body(session: Session, head: str, stops: tuple[str, ...]) -> Reading[str | None]:
    output = session.output
    stops = (*stops, "<|channel|>")
    found = _CHANNEL.search(head)
    channel = found.group(1) if found else ""
    recipient = _RECIPIENT.search(head)
    name = recipient.group(1) if recipient else ""
    if name and name not in ("assistant", "user", "all"):
        stop = yield from session.attempt(_harmony_call(session, name.removeprefix("functions.")), "", head, stops)
        if stop is not None:
            return stop
        return (yield from _body_until(session, stops, output.text))
    if channel == "analysis":
        output.begin_reasoning()
        return (yield from _body_until(session, stops, output.reasoning))
    return (yield from _body_until(session, stops, output.text))


def _harmony_call(session: Session, name: str) -> Reading[None]:
    yield from json_arguments(session.source, session.arguments, lambda: session.start_call(name))
    session.end_call()
    yield from session.source.skip_space()


def _muse_body(session: Session, head: str, stops: tuple[str, ...]) -> Reading[str | None]:
    recipient = _RECIPIENT.search(head)
    if recipient and recipient.group(1) == "self":
        session.output.begin_reasoning()
        return (yield from _body_until(session, stops, session.output.reasoning))
    return (yield from session.content(stops))


_HARMONY = _Layout(("<|channel|>", "to=", "<|message|>"), ("<|end|>", "<|call|>", "<|return|>"), _harmony_body)
_MUSE = _Layout(("to=", "<|message|>"), ("<|eom|>", "<|eot|>"), _muse_body)


def _no_calls(session: Session, found: str) -> Reading[None]:
    raise Malformed("calls have a header")
    yield


FORMATS: tuple[ToolFormat, ...] = (
    ToolFormat("harmony", "<|channel|>commentary to=", "<|call|>", _no_calls, message=_HARMONY.read),
    ToolFormat(
        "muse_spark",
        "<atem:function_calls>",
        "</atem:function_calls>",
        lambda session, found: read_tags(session, ATEM),
        message=_MUSE.read,
    ),
)
