"""Replies of completions: whole ones from answers, chunks from events. Nothing here waits or knows HTTP."""

from collections.abc import Sequence
from typing import Any

from ..service import Answer
from ..work import Finished, Reasoning, Text, TokenLogprob, Usage, WorkEvent
from .chat_reply import FINISH_REASONS, Envelope, finite, total_usage, usage_json

__all__ = ["CompletionChunks", "completion", "legacy_logprobs"]


def legacy_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """OpenAI's older form: parallel lists. What nothing stands before has no log-probability: null.

    Tokens that print alike share one entry of `top_logprobs`: the likeliest. The chosen token is always among them.
    """
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [None if token.logprob is None else finite(token.logprob) for token in tokens],
        "top_logprobs": [_top(token) for token in tokens],
        "text_offset": [token.offset for token in tokens],
    }


def _top(token: TokenLogprob) -> dict[str, float] | None:
    if token.logprob is None:
        return None
    found: dict[str, float] = {}
    for top in token.top:
        found.setdefault(top.text, finite(top.logprob))
    found.setdefault(token.text, finite(token.logprob))
    return found


def completion(envelope: Envelope, answers: Sequence[Answer], *, n: int, logprobs: bool) -> dict[str, Any]:
    """A whole reply: the `n` choices of each prompt, prompt by prompt."""
    choices = [
        {
            "index": index,
            # A raw prompt's reasoning is text like any other.
            "text": "".join(str(part) for kind, part in answer.parts if kind in ("text", "reasoning")),
            "logprobs": legacy_logprobs(answer.logprobs) if logprobs else None,
            "finish_reason": FINISH_REASONS[answer.finished.reason],
        }
        for index, answer in enumerate(answers)
    ]
    usage = total_usage([answer.usage for answer in answers], n)
    return {**envelope.wrap("text_completion", choices), "usage": usage_json(usage)}


class CompletionChunks:
    """Events of one reply's jobs -> its chunks."""

    def __init__(self, envelope: Envelope, *, n: int, include_usage: bool, logprobs: bool):
        self._envelope = envelope
        self._n = n
        self._include_usage = include_usage
        self._logprobs = logprobs
        self._usages: dict[int, Usage] = {}

    def feed(self, index: int, event: WorkEvent) -> list[dict[str, Any]]:
        """The chunks for one event of choice `index`."""
        match event:
            case Text(text, logprobs) | Reasoning(text, logprobs) if text or (logprobs and self._logprobs):
                return [self._chunk(index, text, None, logprobs)]
            case Finished(reason, usage):
                self._usages[index] = usage
                return [self._chunk(index, "", FINISH_REASONS[reason])]
            case _:
                return []

    def end(self) -> list[dict[str, Any]]:
        """What comes when all jobs are over."""
        if not self._include_usage:
            return []
        usage = total_usage([self._usages[index] for index in sorted(self._usages)], self._n)
        return [{**self._envelope.wrap("text_completion", []), "usage": usage_json(usage)}]

    def _chunk(
        self, index: int, text: str, finish: str | None, logprobs: Sequence[TokenLogprob] = ()
    ) -> dict[str, Any]:
        scored = legacy_logprobs(logprobs) if self._logprobs and logprobs else None
        choice = {"index": index, "text": text, "logprobs": scored, "finish_reason": finish}
        chunk = self._envelope.wrap("text_completion", [choice])
        return {**chunk, "usage": None} if self._include_usage else chunk
