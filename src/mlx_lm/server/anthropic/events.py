"""What a job tells -> Anthropic's events and messages.

Contract: the events of a stream come in the vendor's order: message_start, then for each block content_block_start,
deltas and content_block_stop, then message_delta with the stop reason and the cumulative usage, then message_stop.
`message_of` is the same answer as one JSON message. A tool's input comes as input_json_delta after an empty `input`
(Claude Code reads no other form), and as soon as it is written only for tools that ask for it (`Reply.eager`).

Counts are true: `input_tokens` are those computed, `cache_read_input_tokens` those found in the cache, together the
prompt. This module knows no HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..service import Answer, Call
from ..sse import compact_json, frame
from ..work import Finished, Reasoning, Started, Text, ToolArguments, ToolEnd, ToolStart, Usage, WorkEvent
from .request import Reply
from .signature import sign

__all__ = ["PING", "MessageStream", "message_of"]

PING = frame({"type": "ping"}, "ping")
_STOP_REASONS = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "length": "max_tokens",
    "stop_sequence": "stop_sequence",
    "context": "model_context_window_exceeded",
}


def usage_of(usage: Usage) -> dict[str, Any]:
    """The vendor's counts. Nothing is charged for writing to the cache, so that count is 0."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _message(message_id: str, reply: Reply, content: Sequence[Any], usage: Usage) -> dict[str, Any]:
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": list(content),
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_of(usage),
    }


def message_of(answer: Answer, reply: Reply, message_id: str) -> dict[str, Any]:
    """A whole answer as a message."""
    content: list[dict[str, Any]] = []
    for kind, value in answer.parts:
        if isinstance(value, Call):
            content.append({"type": "tool_use", "id": value.id, "name": value.name, "input": _input(value.arguments)})
        elif kind == "reasoning":
            signature = sign(value, omitted=reply.omit_thinking)
            shown = "" if reply.omit_thinking else value
            content.append({"type": "thinking", "thinking": shown, "signature": signature})
        elif value:
            content.append({"type": "text", "text": value})
    message = _message(message_id, reply, content, answer.usage)
    message["stop_reason"] = _STOP_REASONS[answer.finished.reason]
    message["stop_sequence"] = answer.finished.stop_string
    return message


def _input(arguments: str) -> dict[str, Any]:
    """The arguments as an object; their text where JSON has no such number (NaN, 1e999, thousands of digits)."""
    try:
        value = json.loads(arguments or "{}")
        compact_json(value)
    except ValueError:
        return {"arguments": arguments}
    return value if isinstance(value, dict) else {"arguments": value}


@dataclass
class _HeldCall:
    start: ToolStart
    fragments: list[str] = field(default_factory=list)


@dataclass
class MessageStream:
    """The frames of one streamed message; feed it the job's events in order."""

    reply: Reply
    message_id: str
    _index: int = -1  # of the block that is open, or was last
    _open: str | None = None  # its type
    _thought: list[str] = field(default_factory=list)
    _held: dict[int, _HeldCall] = field(default_factory=dict)

    @property
    def blocks(self) -> int:
        """How many blocks the message has so far."""
        return self._index + 1

    def feed(self, event: WorkEvent) -> bytes:
        """The frames that an event makes; none for some."""
        return b"".join(self._frames(event))

    def _frames(self, event: WorkEvent) -> Iterator[bytes]:
        match event:
            case Started(prompt_tokens, cached_tokens):
                message = _message(self.message_id, self.reply, (), Usage(prompt_tokens, cached_tokens))
                yield _event("message_start", message=message)
            case Text(text) if text:
                yield from self._block("text", {"type": "text", "text": ""})
                yield self._delta({"type": "text_delta", "text": text})
            case Reasoning(text) if text:
                yield from self._block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                self._thought.append(text)
                if not self.reply.omit_thinking:
                    yield self._delta({"type": "thinking_delta", "thinking": text})
            case ToolStart() | ToolArguments() | ToolEnd():
                yield from self._call(event)
            case Finished():
                yield from self._finish(event)
            case _:
                pass

    def _call(self, event: ToolStart | ToolArguments | ToolEnd) -> Iterator[bytes]:
        if isinstance(event, ToolStart):
            if self._is_eager(event.name):
                yield from self._start_call(event)
            else:
                self._held[event.index] = _HeldCall(event)
        elif isinstance(event, ToolArguments):
            held = self._held.get(event.index)
            if held is not None:
                held.fragments.append(event.json_fragment)
            elif event.json_fragment:
                yield self._delta({"type": "input_json_delta", "partial_json": event.json_fragment})
        else:
            held = self._held.pop(event.index, None)
            if held is not None and not event.failed:
                yield from self._start_call(held.start)
                for fragment in held.fragments:
                    if fragment:
                        yield self._delta({"type": "input_json_delta", "partial_json": fragment})
            if held is None or not event.failed:
                yield from self._close()

    def _is_eager(self, name: str) -> bool:
        return "*" in self.reply.eager or name in self.reply.eager

    def _start_call(self, start: ToolStart) -> Iterator[bytes]:
        block = {"type": "tool_use", "id": start.id, "name": start.name, "input": {}}
        yield from self._block("tool_use", block, always=True)

    def _block(self, kind: str, block: dict[str, Any], *, always: bool = False) -> Iterator[bytes]:
        """Opens a block unless one of its kind is open."""
        if self._open == kind and not always:
            return
        yield from self._close()
        self._index += 1
        self._open = kind
        yield _event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> Iterator[bytes]:
        if self._open is None:
            return
        if self._open == "thinking":
            signature = sign("".join(self._thought), omitted=self.reply.omit_thinking)
            self._thought.clear()
            yield self._delta({"type": "signature_delta", "signature": signature})
        self._open = None
        yield _event("content_block_stop", index=self._index)

    def _finish(self, event: Finished) -> Iterator[bytes]:
        yield from self._close()
        stop = {"stop_reason": _STOP_REASONS[event.reason], "stop_sequence": event.stop_string}
        yield _event("message_delta", delta=stop, usage=usage_of(event.usage))
        yield _event("message_stop")

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)


def _event(kind: str, **data: Any) -> bytes:
    return frame({"type": kind, **data}, kind)
