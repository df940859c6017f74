"""Speculation with a draft model.

A draft model proposes n tokens, the model computes all of them in one step, and those that equal what the model
samples itself are accepted: the text is exactly the one without a draft. States of every kind are taken back by
snapshot and restore, so recurrent layers can be rolled back too: what was accepted is then computed again.
Source: https://arxiv.org/abs/2211.17192 (here with the exact-match rule instead of the ratio test).
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ...errors import ContextLengthError, RequestError, UnsupportedError
from ...sampling import LogitsProcessor, Sampler, greedy_sampler
from ...state import State
from ...types import FinishReason
from ..model_states import check_states, context_length, new_states
from ..request import Request, TokenEvent
from ..runner import hidden_and_head, token_id
from ..text import StopSequences

__all__ = ["speculative_events", "speculative_generate_step"]


class _Side:
    """One of the two models with its states; `known` is how many tokens the states hold."""

    def __init__(self, model: nn.Module, states: list[State]):
        self.states = states
        self._hidden, self._head = hidden_and_head(model)

    def feed(self, tokens: Sequence[int], last: int) -> mx.array:
        """Computes tokens; logits (last, V) of the last ones."""
        out = self._hidden(mx.array([list(tokens)], mx.int32), self.states)
        out = out[:, -last:]
        return (out if self._head is None else self._head(out))[0]

    def prefill(self, tokens: Sequence[int], step: int, on_chunk: Any = None) -> None:
        for start in range(0, len(tokens), step):
            piece = tokens[start : start + step]
            out = self._hidden(mx.array([list(piece)], mx.int32), self.states)
            mx.eval([a for state in self.states for a in state.arrays()] or out)
            if on_chunk is not None:
                on_chunk(start + len(piece))

    def mark(self) -> list[Any]:
        return [state.snapshot() for state in self.states]

    def back_to(self, marks: list[Any], tokens: Sequence[int], extra: int) -> None:
        """Takes back the last `extra` tokens: by trimming, or from `marks` by computing `tokens` again."""
        if extra == 0:
            return
        if all(state.can_trim(extra) for state in self.states):
            for state in self.states:
                state.trim(extra)
            return
        for state, mark in zip(self.states, marks, strict=True):
            state.restore(mark)
        if tokens:
            self.feed(tokens, 1)


def speculative_events(
    model: nn.Module, draft_model: nn.Module, request: Request, num_draft_tokens: int, prefill_step_size: int
) -> Generator[TokenEvent, None, None]:
    """The request's tokens, with `from_draft` set on those that the draft model proposed.

    With a prompt cache, `request.states` holds the states of both models, the model's first.

    Raises:
        UnsupportedError: the two vocabularies differ, or the request has logits processors.
    """
    if num_draft_tokens < 1:
        raise RequestError(f"num_draft_tokens must be at least 1, not {num_draft_tokens}.")
    _check_pair(model, draft_model)
    if request.logits_processors:
        raise UnsupportedError(
            "Logits processors cannot be combined with a draft model: they must see every token before the next."
        )
    main, draft = _sides(model, draft_model, request)
    limit = context_length(model)
    held = max((s.offset for s in main.states), default=0)
    total = held + len(request.prompt)
    if limit is not None and total > limit:
        raise ContextLengthError(total, limit)
    stops = StopSequences(request.stop_sequences).matcher()
    prompt = list(request.prompt)
    done = request.on_progress or (lambda *_: None)
    done(0, len(prompt))
    main.prefill(prompt[:-1], prefill_step_size, lambda n: done(n, len(prompt)))
    draft.prefill(prompt[:-1], prefill_step_size)
    done(len(prompt), len(prompt))
    room = None if limit is None else limit - total
    left = min((n for n in (request.max_tokens, room) if n is not None), default=None)
    current, backlog = prompt[-1], [prompt[-1]]
    while True:
        width = num_draft_tokens if left is None else min(num_draft_tokens, left - 1)
        with closing(_round(main, draft, request.sampler, current, backlog, width)) as results:
            for token, logprobs, drafted, unseen in results:
                left = None if left is None else left - 1
                reason: FinishReason | None = None
                if token in request.stop_tokens or stops.advance(token):
                    reason = "stop"
                elif left is not None and left <= 0:
                    reason = "length"
                yield TokenEvent(0, token, logprobs, reason, from_draft=drafted)
                if reason is not None:
                    return
                current, backlog = token, unseen


def _round(
    main: _Side, draft: _Side, sampler: Sampler, current: int, backlog: list[int], width: int
) -> Generator[tuple[int, mx.array, bool, list[int]], None, None]:
    """One draft and its check: (token, log-probabilities, drafted, what the draft model has not seen yet).

    When a token is given out, the model's states hold everything before it, so a consumer may stop anywhere.
    """
    proposed: list[int] = []
    draft_marks = draft.mark()
    fed = list(backlog)
    pending = backlog
    for _ in range(width):
        logits = draft.feed(pending, 1)
        proposed.append(token_id(mx.argmax(logits, axis=-1)))
        pending = [proposed[-1]]
        fed += pending
    seen = fed[:-1] if width else []  # what the draft's states hold beyond the marks
    marks = main.mark()
    logits = main.feed([current, *proposed], width + 1)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    takes_logits = getattr(sampler, "takes_logits", False)
    rows = logits if takes_logits else logprobs
    accepted: list[int] = []
    for i in range(width + 1):
        accepted.append(token_id(sampler(rows[i : i + 1])))
        if i < width and accepted[i] != proposed[i]:
            break
    good = len(accepted) - 1  # drafts that were right
    main.back_to(marks, [current, *accepted[:good]], width - good)
    # The draft model has seen all but the last proposal; it goes back to the last right one.
    right = len(backlog) + good
    draft.back_to(draft_marks, fed[:right], max(len(seen) - right, 0))
    missing = fed[len(seen) : right] if right > len(seen) else []
    given = 0
    try:
        for i, token in enumerate(accepted):
            given = i
            yield token, logprobs[i], i < good, [*missing, accepted[-1]]
    finally:
        main.back_to(marks, [current, *accepted[:given]], good - given)


def speculative_generate_step(
    prompt: mx.array | Sequence[int],
    model: nn.Module,
    draft_model: nn.Module,
    stream: Any = None,
    *,
    num_draft_tokens: int = 2,
    max_tokens: int | None = None,
    sampler: Sampler | None = None,
    logits_processors: Sequence[LogitsProcessor] | None = None,
    prompt_cache: list[State] | None = None,
    prefill_step_size: int = 512,
    kv_bits: int | None = None,
    kv_group_size: int = 64,
    quantized_kv_start: int = 0,
) -> Generator[tuple[int, mx.array, bool], None, None]:
    """Tokens that follow `prompt` as (token, log-probabilities (V,), from_draft).

    `prompt_cache` is the model's states followed by the draft model's.
    """
    from ..api import kv_options  # the API imports this package

    ids = prompt.tolist() if isinstance(prompt, mx.array) else list(prompt)
    request = Request(
        prompt=tuple(ids),  # type: ignore[arg-type]
        max_tokens=None if max_tokens == -1 else max_tokens,
        sampler=sampler or greedy_sampler,
        logits_processors=tuple(logits_processors or ()),
        states=prompt_cache,
        kv=kv_options(kv_bits, kv_group_size, quantized_kv_start),
    )
    events = speculative_events(model, draft_model, request, num_draft_tokens, prefill_step_size)
    while True:
        if stream is None:
            event = next(events, None)
        else:
            with mx.stream(stream):
                event = next(events, None)
        if event is None:
            return
        assert event.logprobs is not None
        yield event.token, event.logprobs, event.from_draft


def _sides(model: nn.Module, draft_model: nn.Module, request: Request) -> tuple[_Side, _Side]:
    if request.states is None:
        main, draft = new_states(model, request.kv), new_states(draft_model, request.kv)
    else:
        layers = len(model.layers)  # type: ignore[arg-type]
        main, draft = list(request.states[:layers]), list(request.states[layers:])
        if not draft:
            draft = new_states(draft_model, request.kv)
            if any(not state.empty() for state in main):
                raise UnsupportedError(
                    "The prompt cache was made without a draft model; continue without one, or make the cache of both "
                    "models: make_prompt_cache(model) + make_prompt_cache(draft_model)."
                )
        check_states(model, main)
        check_states(draft_model, draft)
    return _Side(model, main), _Side(draft_model, draft)


def _check_pair(model: nn.Module, draft_model: nn.Module) -> None:
    sizes = [getattr(getattr(m, "args", None), "vocab_size", None) for m in (model, draft_model)]
    if sizes[0] != sizes[1]:
        raise UnsupportedError(
            f"The draft model's vocabulary has {sizes[1]} tokens and the model's {sizes[0]}: a draft model must have "
            "the same tokenizer."
        )
