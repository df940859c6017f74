"""A model's output, piece by piece, as reasoning, answer and tool calls.

Contract: `StreamParser.feed(text)` gives the events that `text` settles and `finish()` the rest. The events, joined,
are the same however the text was cut into pieces. Nothing is lost: incomplete markers and malformed calls are text,
but for the beginning of a marker where a limit cut the output behind a call, or inside one that had to come.
`parse_complete` is the same parser, fed at once. `has_calls` is what a finish reason of "tool_calls" needs.

This module does not know formats, tokens or protocols.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlx_lm.tokenizer.parsers.detect import ParserChoice
from mlx_lm.tokenizer.parsers.events import (
    Event,
    Parsed,
    ReasoningDelta,
    TextDelta,
    TextWasReasoning,
    ToolCall,
    ToolCallArguments,
    ToolCallFailed,
    ToolCallStart,
)
from mlx_lm.tokenizer.parsers.schema import ToolSchemas
from mlx_lm.tokenizer.parsers.session import Output, Session

__all__ = ["StreamParser", "collect", "parse_complete"]


def _random_id(name: str, index: int) -> str:
    return f"call_{secrets.token_hex(12)}"


class StreamParser:
    """Parses one message.

    Args:
        choice: the model's formats, of `choose_parsers`.
        tools: the tools of the request, for the types of arguments; None if they are not known.
        in_reasoning: the prompt has opened reasoning (`prompt_opens_thinking`).
        stream_arguments: False holds every call back until it is complete: then no call ever fails.
        new_id: gives the id of a call from its name and index, where the model writes none; None: as the format
            prescribes, else random.
        forced: the output has to be a call.
    """

    def __init__(
        self,
        choice: ParserChoice,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        in_reasoning: bool = False,
        stream_arguments: bool = True,
        new_id: Callable[[str, int], str] | None = None,
        forced: bool = False,
    ) -> None:
        self._output = Output(atomic=not stream_arguments)
        ids = new_id or (choice.tools.new_id if choice.tools else None) or _random_id
        session = Session(self._output, choice.reasoning, choice.tools, ToolSchemas(tools), ids)
        self._session = session
        self._forced = forced
        self._source = session.source
        self._reading = session.message(in_reasoning)
        self._running = True

    @property
    def has_calls(self) -> bool:
        """Whether a complete call has come."""
        return self._output.calls > 0

    def feed(self, text: str) -> list[Event]:
        """The events that the next piece of text settles."""
        if text:
            self._source.feed(text)
            self._step()
        return self._output.drain()

    def finish(self, *, cut: bool = False) -> list[Event]:
        """The rest of the events: no more text comes. `cut`: a limit ended it, not the model."""
        if cut and (self.has_calls or self._forced) and not self._session.in_call:
            self._running = False  # what is not read yet is the beginning of a marker
        self._source.close()
        while self._running:
            self._step()
        self._output.finish()
        return self._output.drain()

    def _step(self) -> None:
        if self._running:
            try:
                next(self._reading)
            except StopIteration:
                self._running = False


def collect(events: Sequence[Event]) -> Parsed:
    """The message that the events of a whole output make."""
    reasoning: list[str] = []
    content: list[str] = []
    calls: dict[int, ToolCallStart] = {}
    arguments: dict[int, list[str]] = {}
    for event in events:
        if isinstance(event, ReasoningDelta):
            reasoning.append(event.text)
        elif isinstance(event, TextDelta):
            content.append(event.text)
        elif isinstance(event, TextWasReasoning):
            reasoning, content = content, []
        elif isinstance(event, ToolCallStart):
            calls[event.index], arguments[event.index] = event, []
        elif isinstance(event, ToolCallArguments):
            arguments[event.index].append(event.json_fragment)
        elif isinstance(event, ToolCallFailed):
            del calls[event.index]
            content.append(event.text)
    made = (ToolCall(call.id, call.name, "".join(arguments[index])) for index, call in sorted(calls.items()))
    return Parsed("".join(reasoning) or None, "".join(content), tuple(made))


def parse_complete(
    text: str,
    choice: ParserChoice,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    in_reasoning: bool = False,
    new_id: Callable[[str, int], str] | None = None,
) -> Parsed:
    """Parses a whole output; the arguments are those of `StreamParser`."""
    parser = StreamParser(choice, tools=tools, in_reasoning=in_reasoning, new_id=new_id)
    return collect([*parser.feed(text), *parser.finish()])
