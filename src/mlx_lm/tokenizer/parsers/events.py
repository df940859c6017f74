"""What a parser reports while a model writes, and the whole of it at the end.

Contract: deltas of one kind belong together in the order in which they come. A tool call is one `ToolCallStart`,
any number of `ToolCallArguments`, and one `ToolCallEnd`; its fragments joined are one JSON object. A call that turns
out to be malformed ends with `ToolCallFailed` instead: it was no call, and its source text belongs to the content.

This module does not know any format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "Event",
    "Parsed",
    "ReasoningDelta",
    "TextDelta",
    "TextWasReasoning",
    "ToolCall",
    "ToolCallArguments",
    "ToolCallEnd",
    "ToolCallFailed",
    "ToolCallStart",
]


@dataclass(frozen=True)
class ReasoningDelta:
    """A piece of the model's reasoning."""

    text: str


@dataclass(frozen=True)
class TextDelta:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class TextWasReasoning:
    """All text so far was reasoning: the model closed a block of reasoning that it had never opened."""


@dataclass(frozen=True)
class ToolCallStart:
    """A call begins. `index` counts the calls of the message from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class ToolCallArguments:
    """The next piece of the JSON text of the arguments."""

    index: int
    json_fragment: str


@dataclass(frozen=True)
class ToolCallEnd:
    """The call is complete."""

    index: int


@dataclass(frozen=True)
class ToolCallFailed:
    """The call is malformed and does not count; `text` is its source so far, and is part of the content."""

    index: int
    text: str


Event: TypeAlias = (
    ReasoningDelta | TextDelta | TextWasReasoning | ToolCallStart | ToolCallArguments | ToolCallEnd | ToolCallFailed
)


@dataclass(frozen=True)
class ToolCall:
    """A complete call; `arguments` is the text of a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Parsed:
    """A whole message. `reasoning` is None when there was none."""

    reasoning: str | None
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
