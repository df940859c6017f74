"""Replies of the responses API: one builder makes the response object and, on the way, the typed events of a stream.

Contract: `start`, then `feed` for each event, then `finish` or `fail`; each gives the events to send. `response` is the
whole object at any time. Nothing here waits or knows HTTP.
"""

import secrets
import time
from collections.abc import Sequence
from typing import Any

from ..errors import openai_error
from ..work import Finished, Reasoning, Text, TokenLogprob, ToolArguments, ToolEnd, ToolStart, Usage, WorkEvent
from .chat_reply import finite
from .responses import ResponsesRequest, wants_logprobs

__all__ = ["ResponseBuilder"]

Event = dict[str, Any]


def _logprobs(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    return [
        {
            "token": token.text,
            "logprob": finite(token.logprob or 0.0),
            "bytes": list(token.bytes),
            "top_logprobs": [
                {"token": top.text, "logprob": finite(top.logprob), "bytes": list(top.bytes)} for top in token.top
            ],
        }
        for token in tokens
    ]


class ResponseBuilder:
    """One response. Items are reasoning, messages of one text part, and function calls, in the order of writing."""

    def __init__(self, body: ResponsesRequest, model: str):
        self._body = body
        self._scored = wants_logprobs(body)
        self._sequence = 0
        self._index = -1  # of the latest item; a call that failed leaves a gap
        self._output: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._frame = {**_echo(body, model), "id": f"resp_{secrets.token_hex(16)}", "created_at": int(time.time())}
        self._status: dict[str, Any] = {"status": "in_progress"}

    @property
    def response(self) -> dict[str, Any]:
        """The response object as it stands."""
        nothing = {"error": None, "incomplete_details": None, "usage": None}
        return {**self._frame, **nothing, **self._status, "output": [dict(item) for item in self._output]}

    def start(self) -> list[Event]:
        """The events before any token."""
        return [self._event(f"response.{kind}", response=self.response) for kind in ("created", "in_progress")]

    def feed(self, event: WorkEvent) -> list[Event]:
        """The events for one event of the job."""
        match event:
            case Text(text, logprobs) if text or (logprobs and self._scored):
                return self._write("message", "output_text", text, logprobs)
            case Reasoning(text) if text:
                return self._write("reasoning", "reasoning_text", text, ())
            case ToolStart(_, identity, name):
                item = {"type": "function_call", "call_id": identity, "name": name, "arguments": ""}
                return [*self._close(), *self._begin("fc", item)]
            case ToolArguments(_, fragment) if self._open is not None:
                self._open["arguments"] += fragment
                return [self._item_event("response.function_call_arguments.delta", delta=fragment)]
            case ToolEnd(_, failed):
                return self._close(failed=failed)
            case Finished(reason, usage):
                return self._finish(reason in ("length", "context"), usage)
            case _:
                return []

    def fail(self, error: Exception) -> list[Event]:
        """The events of a job that failed: `response.failed`, then `error`, by which OpenAI's clients raise."""
        problem = openai_error(error)["error"]
        code = "server_error" if problem["type"] == "server_error" else "invalid_prompt"
        self._status = {"status": "failed", "error": {"code": code, "message": problem["message"]}}
        failed = self._event("response.failed", response=self.response)
        flat = {key: problem[key] for key in ("code", "message", "param")}
        return [failed, self._event("error", **flat, error=problem)]

    def _finish(self, incomplete: bool, usage: Usage) -> list[Event]:
        events = self._close(incomplete=incomplete)
        self._status = {"status": "incomplete" if incomplete else "completed", "usage": _usage(usage)}
        if incomplete:
            self._status["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self._status["completed_at"] = int(time.time())
        kind = "response.incomplete" if incomplete else "response.completed"
        return [*events, self._event(kind, response=self.response)]

    def _write(self, item_type: str, part_type: str, text: str, logprobs: Sequence[TokenLogprob]) -> list[Event]:
        """Text into the open item of this type, which is begun where there is none."""
        events: list[Event] = []
        if self._open is None or self._open["type"] != item_type:
            events += self._close()
            if item_type == "message":
                events += self._begin("msg", {"type": "message", "role": "assistant", "content": []})
            else:
                events += self._begin("rs", {"type": "reasoning", "summary": [], "content": []})
            assert self._open is not None
            part: dict[str, Any] = {"type": part_type, "text": ""}
            if part_type == "output_text":
                part |= {"annotations": [], "logprobs": []}
            events.append(self._item_event("response.content_part.added", content_index=0, part=dict(part)))
            self._open["content"] = [part]
        part = self._open["content"][0]
        part["text"] += text
        extra: dict[str, Any] = {}
        if part_type == "output_text":
            extra["logprobs"] = _logprobs(logprobs) if self._scored else []
            part["logprobs"] += extra["logprobs"]
        events.append(self._item_event(f"response.{part_type}.delta", content_index=0, delta=text, **extra))
        return events

    def _begin(self, prefix: str, item: dict[str, Any]) -> list[Event]:
        self._index += 1
        self._open = {"id": f"{prefix}_{secrets.token_hex(16)}", "status": "in_progress", **item}
        self._output.append(self._open)
        return [self._event("response.output_item.added", output_index=self._index, item=dict(self._open))]

    def _close(self, *, failed: bool = False, incomplete: bool = False) -> list[Event]:
        """The events that end the open item. A failed call is taken out of the output: it must not be run."""
        item = self._open
        if item is None:
            return []
        events = []
        if item["type"] == "function_call":
            done = {"arguments": item["arguments"], "name": item["name"]}
            events.append(self._item_event("response.function_call_arguments.done", **done))
        else:
            part = item["content"][0]
            extra = {"logprobs": part["logprobs"]} if part["type"] == "output_text" else {}
            events.append(
                self._item_event(f"response.{part['type']}.done", content_index=0, text=part["text"], **extra)
            )
            events.append(self._item_event("response.content_part.done", content_index=0, part=dict(part)))
        item["status"] = "incomplete" if failed or incomplete else "completed"
        events.append(self._event("response.output_item.done", output_index=self._index, item=dict(item)))
        if failed:
            self._output.remove(item)
        self._open = None
        return events

    def _item_event(self, kind: str, **fields: Any) -> Event:
        assert self._open is not None
        return self._event(kind, item_id=self._open["id"], output_index=self._index, **fields)

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.prompt_tokens - usage.cached_tokens,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _echo(body: ResponsesRequest, model: str) -> dict[str, Any]:
    """What a response repeats of its request."""
    text_format = body.text.format if body.text else None
    shown = {"type": "text"} if text_format is None else text_format.model_dump(by_alias=True, exclude_none=True)
    return {
        "object": "response",
        "model": model,
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": None,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "store": False,
        "temperature": body.temperature,
        "text": {"format": shown},
        "tool_choice": body.tool_choice or "auto",
        "tools": [_tool(tool) for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        "truncation": "disabled",
        "user": body.user,
    }


def _tool(tool: Any) -> dict[str, Any]:
    shown = {"type": "function", "name": tool.name, "description": tool.description}
    return {**shown, "parameters": tool.parameters or {}, "strict": bool(tool.strict)}
