"""Answers to many prompts for an evaluation: batched by the engine, cut at stop strings, without the reasoning.

Stop strings are looked for in the answer alone, because reasoning is full of blank lines and the like. Beginnings that
prompts share, such as a task's examples, are computed once. This module does not know evaluation harnesses.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn

from ..engine import Engine, PrefixCache, Request, TokenEvent
from ..sampling import Sampler, greedy_sampler
from ..tokenizer.parsers import (
    Event,
    ReasoningDelta,
    StreamParser,
    TextDelta,
    TextWasReasoning,
    prompt_opens_thinking,
)

__all__ = ["Question", "write_answers"]

_PREFIX_BYTES = 2**30


@dataclass(frozen=True)
class Question:
    """A prompt's token ids, and how its answer is written; `stop` are strings that end it and are no part of it."""

    prompt: tuple[int, ...]
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    sampler: Sampler = greedy_sampler


def write_answers(
    model: nn.Module,
    tokenizer: Any,
    questions: Sequence[Question],
    *,
    batch_size: int = 8,
    prefill_step_size: int = 2048,
    progress: Callable[[int, int], object] | None = None,
) -> list[str]:
    """The answers, in order.

    Args:
        tokenizer: a `TokenizerWrapper`.
        batch_size: answers that are written together.
        progress: called with (answers done, answers in all).

    Raises:
        ContextLengthError: a prompt does not fit the model's context.
        RequestError: a value is out of range.
    """
    engine = Engine(
        model, max_batch=batch_size, prefill_step_size=prefill_step_size, prefix_cache=PrefixCache(_PREFIX_BYTES)
    )
    ends = frozenset(tokenizer.eos_token_ids)
    order = sorted(range(len(questions)), key=lambda i: questions[i].prompt)  # neighbours share their beginnings
    answers: dict[int, tuple[int, _Answer]] = {}
    for i in order:
        question = questions[i]
        request = Request(
            prompt=question.prompt, max_tokens=question.max_tokens, stop_tokens=ends, sampler=question.sampler
        )
        answers[engine.add(request)] = (i, _Answer(tokenizer, question))
    texts = [""] * len(questions)
    done = 0
    while not engine.idle:
        for event in engine.step():
            if not isinstance(event, TokenEvent) or event.uid not in answers:
                continue
            if event.error is not None:
                raise event.error
            i, answer = answers[event.uid]
            if event.token not in ends:
                answer.add(event.token)
            if event.finish_reason is None and not answer.stopped:
                continue
            if event.finish_reason is None:
                engine.cancel(event.uid)
            del answers[event.uid]
            texts[i] = answer.finish()
            done += 1
            if progress is not None:
                progress(done, len(questions))
    return texts


class _Answer:
    """The text of one answer as it grows."""

    def __init__(self, tokenizer: Any, question: Question) -> None:
        self.stopped = False
        self._detokenizer = tokenizer.detokenizer
        choice = dataclasses.replace(tokenizer.parsers, tools=None)
        starts = tokenizer.think_start_tokens
        opened = starts is not None and prompt_opens_thinking(question.prompt, starts, tokenizer.think_end_tokens)
        self._parser = StreamParser(choice, in_reasoning=opened) if choice.reasoning is not None else None
        self._stop = tuple(stop for stop in question.stop if stop)
        self._longest = max(map(len, self._stop), default=0)
        self._reasoned = False
        self._text = ""

    def add(self, token: int) -> None:
        self._detokenizer.add_token(token)
        self._read(self._detokenizer.last_segment)

    def finish(self) -> str:
        """The whole answer."""
        if not self.stopped:
            self._detokenizer.finalize()
            self._read(self._detokenizer.last_segment)
            if self._parser is not None:
                self._take(self._parser.finish())
        return self._text.lstrip() if self._reasoned else self._text

    def _read(self, segment: str) -> None:
        if self._parser is None:
            self._append(segment)
        else:
            self._take(self._parser.feed(segment))

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case TextDelta(text):
                    self._append(text)
                case ReasoningDelta():
                    self._reasoned = True
                case TextWasReasoning():
                    self._text, self._reasoned = "", True
                case _:  # calls are not parsed here: they are text
                    pass

    def _append(self, text: str) -> None:
        if self.stopped or not text:
            return
        before = len(self._text)
        self._text += text
        found = [at for stop in self._stop if (at := self._text.find(stop, max(before - self._longest, 0))) >= 0]
        if found:
            self._text, self.stopped = self._text[: min(found)], True
