"""Replies of chat completions: whole ones from answers, chunks from events.

Contract: nothing here waits or knows HTTP. Reasoning is given as `reasoning_content` (DeepSeek's and vLLM's name)
and as `reasoning` (mlx-lm's), and is never part of `content`. Log-probabilities cover its tokens too.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..service import Answer
from ..work import (
    EndReason,
    Finished,
    Progress,
    Reasoning,
    Text,
    TokenLogprob,
    ToolArguments,
    ToolEnd,
    ToolStart,
    Usage,
    WorkEvent,
)

__all__ = ["FINISH_REASONS", "ChatChunks", "Envelope", "chat_completion", "token_logprobs", "total_usage", "usage_json"]

# OpenAI has no word for a full context.
FINISH_REASONS: dict[EndReason, str] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "context": "length",
    "tool_calls": "tool_calls",
}
_LOWEST = -9999.0  # OpenAI's figure for what is not among the likeliest; JSON has no infinity


@dataclass(frozen=True)
class Envelope:
    """What all parts of one reply have in common."""

    id: str
    model: str
    fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))

    def wrap(self, kind: str, choices: Sequence[Any]) -> dict[str, Any]:
        """A reply object of this `object` kind."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": list(choices),
        }


def finite(logprob: float) -> float:
    """A log-probability as JSON can hold it."""
    return logprob if logprob > _LOWEST else _LOWEST


def token_logprobs(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """OpenAI's entries for tokens of a chat answer; `id` is mlx-lm's addition."""
    return [
        {
            "id": token.token_id,
            "token": token.text,
            "logprob": finite(token.logprob or 0.0),
            "bytes": list(token.bytes),
            "top_logprobs": [
                {"id": top.token_id, "token": top.text, "logprob": finite(top.logprob), "bytes": list(top.bytes)}
                for top in token.top
            ],
        }
        for token in tokens
    ]


def usage_json(usage: Usage) -> dict[str, Any]:
    """The `usage` object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def total_usage(usages: Sequence[Usage], n: int = 1) -> Usage:
    """The sum over choices; a prompt with `n` answers counts once, as at OpenAI."""
    prompts = usages[::n]
    return Usage(
        sum(usage.prompt_tokens for usage in prompts),
        sum(usage.cached_tokens for usage in prompts),
        sum(usage.completion_tokens for usage in usages),
        sum(usage.reasoning_tokens for usage in usages),
    )


def chat_completion(envelope: Envelope, answers: Sequence[Answer], *, logprobs: bool) -> dict[str, Any]:
    """A whole reply: one choice for each answer."""
    choices = [
        {
            "index": index,
            "message": _message(answer),
            "logprobs": {"content": token_logprobs(answer.logprobs), "refusal": None} if logprobs else None,
            "finish_reason": FINISH_REASONS[answer.finished.reason],
        }
        for index, answer in enumerate(answers)
    ]
    usage = total_usage([answer.usage for answer in answers], len(answers))
    return {**envelope.wrap("chat.completion", choices), "usage": usage_json(usage)}


def _message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if answer.calls and not answer.text else answer.text,
        "refusal": None,
    }
    if answer.reasoning:
        message["reasoning_content"] = message["reasoning"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.calls
        ]
    return message


class ChatChunks:
    """Events of one reply's jobs -> its chunks. The role comes once for each choice, in the first chunk."""

    def __init__(self, envelope: Envelope, *, include_usage: bool, logprobs: bool):
        self._envelope = envelope
        self._include_usage = include_usage
        self._logprobs = logprobs
        self._begun: set[int] = set()
        self._usages: dict[int, Usage] = {}

    def feed(self, index: int, event: WorkEvent) -> list[dict[str, Any]]:
        """The chunks for one event of choice `index`; often none, seldom more than one."""
        if isinstance(event, Progress | ToolEnd):
            return []
        chunks = []
        if index not in self._begun:
            self._begun.add(index)
            chunks.append(self._chunk(index, {"role": "assistant", "content": "", "refusal": None}))
        match event:
            case Text(text, logprobs) if text or (logprobs and self._logprobs):
                chunks.append(self._chunk(index, {"content": text}, logprobs=logprobs))
            case Reasoning(text, logprobs) if text or (logprobs and self._logprobs):
                chunks.append(self._chunk(index, {"reasoning_content": text, "reasoning": text}, logprobs=logprobs))
            case ToolStart(number, identity, name):
                function = {"name": name, "arguments": ""}
                call = {"index": number, "id": identity, "type": "function", "function": function}
                chunks.append(self._chunk(index, {"tool_calls": [call]}))
            case ToolArguments(number, fragment):
                call = {"index": number, "function": {"arguments": fragment}}
                chunks.append(self._chunk(index, {"tool_calls": [call]}))
            case Finished(reason, usage):
                self._usages[index] = usage
                chunks.append(self._chunk(index, {}, FINISH_REASONS[reason]))
            case _:
                pass
        return chunks

    def end(self) -> list[dict[str, Any]]:
        """What comes when all jobs are over."""
        if not self._include_usage:
            return []
        usages = [self._usages[index] for index in sorted(self._usages)]
        usage = total_usage(usages, max(len(usages), 1))
        return [{**self._envelope.wrap("chat.completion.chunk", []), "usage": usage_json(usage)}]

    def _chunk(
        self, index: int, delta: dict[str, Any], finish: str | None = None, *, logprobs: Sequence[TokenLogprob] = ()
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        if self._logprobs and logprobs:
            choice["logprobs"] = {"content": token_logprobs(logprobs), "refusal": None}
        chunk = self._envelope.wrap("chat.completion.chunk", [choice])
        return {**chunk, "usage": None} if self._include_usage else chunk
