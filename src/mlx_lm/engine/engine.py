"""The one engine: takes requests, steps through them, gives an event for each token.

`step()` does all MLX work on the thread that calls it. Failures end one request, never the engine: the exception is
in that request's last event. This module does not know about text, files or HTTP.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import CacheMismatchError, ContextLengthError, RequestError
from ..state import PLAIN_KV, AttentionState, KVOptions, State
from ..types import FinishReason
from .request import PrefillProgress, Request, TokenEvent
from .runner import ActiveSequence, Runner
from .scheduler import Policy, Scheduler
from .text import StopSequences

__all__ = ["Engine", "EngineStats", "check_states", "context_length", "new_states"]


@dataclass
class EngineStats:
    """What the engine has done: counts, and seconds spent in prompts and in decode steps."""

    prompt_tokens: int = 0
    prompt_time: float = 0.0
    generation_tokens: int = 0
    generation_steps: int = 0
    decode_time: float = 0.0


@dataclass
class _Live:
    sequence: ActiveSequence
    stops: Any
    held: int  # tokens in the states before this request's prompt


class Engine:
    """Continues many sequences with one model.

    Args:
        model: called as `model(ids (B, L), states)`; the families of this package, or any model of that form.
        max_batch: sequences that decode together.
        prefill_step_size: most prompt tokens in one step.
        policy: how steps are shared between prompts and running sequences.
        look_ahead: see `Runner`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        max_batch: int = 32,
        prefill_step_size: int = 2048,
        policy: Policy = "fair",
        look_ahead: bool | None = None,
    ):
        if prefill_step_size < 1:
            raise RequestError(f"prefill_step_size must be at least 1, not {prefill_step_size}.")
        self.model = model
        self.stats = EngineStats()
        self._runner = Runner(model, look_ahead=look_ahead)
        self._scheduler = Scheduler(max_batch=max_batch, prefill_step=prefill_step_size, policy=policy)
        self._live: dict[int, _Live] = {}
        self._finished: dict[int, tuple[list[State], list[int]]] = {}
        self._uids = itertools.count()
        self._limit = context_length(model)

    def add(self, request: Request) -> int:
        """Admits a request and returns its id.

        Raises:
            ContextLengthError: the prompt does not fit the model's context.
            CacheMismatchError: the given states are not of this model.
        """
        states = list(request.states) if request.states is not None else new_states(self.model, request.kv)
        if request.states is not None:
            check_states(self.model, states)
        held = max((state.offset for state in states), default=0)
        if self._limit is not None and held + len(request.prompt) > self._limit:
            raise ContextLengthError(held + len(request.prompt), self._limit)
        uid = next(self._uids)
        sequence = ActiveSequence(uid, request, states)
        stops = StopSequences([*request.stop_sequences]).matcher()
        self._live[uid] = _Live(sequence, stops, held)
        self._scheduler.add(uid, len(request.prompt), request.priority)
        return uid

    def cancel(self, uid: int) -> None:
        """Ends a request at once. Unknown ids are ignored."""
        if uid in self._live:
            self._end(uid)

    def take(self, uid: int) -> tuple[list[State], list[int]] | None:
        """Once, for a request with `keep_states`: its states and all its tokens, the last not yet in the states."""
        return self._finished.pop(uid, None)

    @property
    def live(self) -> tuple[int, ...]:
        return tuple(self._live)

    @property
    def idle(self) -> bool:
        return not self._live

    def step(self) -> list[TokenEvent | PrefillProgress]:
        """Does one planned step and returns what happened; nothing when there is nothing to do."""
        plan = self._scheduler.plan()
        if plan is None:
            return []
        events: list[TokenEvent | PrefillProgress] = []
        if plan.prefill is not None:
            events += self._prefill(plan.prefill, plan.length)
        decode = [uid for uid in plan.decode if uid in self._live]
        if plan.prefill is not None and plan.prefill in self._live and plan.prefill in self._scheduler.running:
            decode.append(plan.prefill)  # its first token was sampled with the prompt
        if decode:
            events += self._decode(decode)
        return events

    def run(self, uid: int) -> Iterator[TokenEvent]:
        """Steps until `uid` ends, giving its tokens; raises its error. For one request at a time."""
        try:
            while True:
                for event in self.step():
                    if isinstance(event, PrefillProgress) or event.uid != uid:
                        continue
                    if event.error is not None:
                        raise event.error
                    yield event
                    if event.finish_reason is not None:
                        return
        finally:
            self.cancel(uid)

    def check(self) -> None:
        """Raises AssertionError when the engine's books do not balance."""
        self._scheduler.check()
        listed = {*self._scheduler.waiting, *self._scheduler.running}
        assert listed == set(self._live), "scheduler and engine disagree about what is live"

    def states_nbytes(self) -> int:
        """Bytes held by the states of live sequences."""
        return sum(state.nbytes for live in self._live.values() for state in live.sequence.states)

    def _prefill(self, uid: int, length: int) -> list[TokenEvent | PrefillProgress]:
        sequence = self._live[uid].sequence
        request = sequence.request
        start = time.perf_counter()
        try:
            if request.on_progress is not None and sequence.done == 0:
                request.on_progress(0, len(request.prompt))
            self._runner.prefill(sequence, length)
            if sequence.ahead is not None:
                mx.eval(sequence.ahead.token)
            if request.on_progress is not None:
                request.on_progress(sequence.done, len(request.prompt))
        except Exception as error:
            return [self._fail(uid, error)]
        self.stats.prompt_tokens += length
        self.stats.prompt_time += time.perf_counter() - start
        self._scheduler.prefilled(uid, length)
        return [PrefillProgress(uid, sequence.done, len(request.prompt))]

    def _decode(self, uids: list[int]) -> list[TokenEvent | PrefillProgress]:
        start = time.perf_counter()
        sequences = [self._live[uid].sequence for uid in uids]
        try:
            results = self._runner.decode(sequences)
        except Exception as error:
            if len(uids) == 1:
                return [self._fail(uids[0], error)]
            return self._decode_apart(uids)
        events = [self._emit(uid, token, logprobs) for uid, (token, logprobs) in zip(uids, results, strict=True)]
        self.stats.generation_tokens += len(events)
        self.stats.generation_steps += 1
        self.stats.decode_time += time.perf_counter() - start
        return events

    def _decode_apart(self, uids: list[int]) -> list[TokenEvent | PrefillProgress]:
        """After a failed batch step: each sequence alone, so that only the guilty one ends."""
        events: list[TokenEvent | PrefillProgress] = []
        for uid in uids:
            self._runner.rewind(self._live[uid].sequence)
        for uid in uids:
            events += self._decode([uid])
        return events

    def _emit(self, uid: int, token: int, logprobs: mx.array) -> TokenEvent:
        live = self._live[uid]
        request, sequence = live.sequence.request, live.sequence
        sequence.generated.append(token)
        reason: FinishReason | None = None
        full = self._limit is not None and live.held + len(request.prompt) + len(sequence.generated) >= self._limit
        if token in request.stop_tokens or live.stops.advance(token):
            reason = "stop"
        elif full or (request.max_tokens is not None and len(sequence.generated) >= request.max_tokens):
            reason = "length"
        if reason is not None:
            self._end(uid)
        return TokenEvent(uid, token, logprobs, reason)

    def _fail(self, uid: int, error: Exception) -> TokenEvent:
        self._end(uid)
        self._finished.pop(uid, None)
        return TokenEvent(uid, -1, error=error)

    def _end(self, uid: int) -> None:
        live = self._live.pop(uid)
        self._scheduler.remove(uid)
        self._runner.rewind(live.sequence)
        if live.sequence.request.keep_states:
            request, sequence = live.sequence.request, live.sequence
            tokens = [*request.history, *request.prompt[: sequence.done], *sequence.generated]
            self._finished[uid] = (sequence.states, tokens)


def context_length(model: nn.Module) -> int | None:
    """Positions that the model's config allows, or None."""
    length = getattr(model, "context_length", None)
    if isinstance(length, int):
        return length
    return getattr(getattr(model, "args", None), "max_position_embeddings", None)


def new_states(model: nn.Module, options: KVOptions = PLAIN_KV) -> list[State]:
    """Fresh states for one sequence; a model from elsewhere may make its own."""
    if hasattr(model, "state_specs"):
        return model.make_cache(options)  # type: ignore[operator]
    if hasattr(model, "make_cache"):
        return model.make_cache()  # type: ignore[operator]
    window = None if options.max_size is None else options.max_size - options.keep
    keep = 0 if window is None else options.keep
    return [
        AttentionState(window=window, keep=keep, bits=options.bits, group_size=options.group_size, start=options.start)
        for _ in model.layers  # type: ignore[union-attr]
    ]


def check_states(model: nn.Module, states: list[State]) -> None:
    """Raises CacheMismatchError unless `states` can have been made by this model."""
    if not hasattr(model, "state_specs"):
        return
    specs = model.state_specs()  # type: ignore[operator]
    if len(specs) != len(states):
        raise CacheMismatchError(
            f"The prompt cache has {len(states)} layers but the model has {len(specs)}: it is another model's."
        )
    for i, (spec, state) in enumerate(zip(specs, states, strict=True)):
        problem = spec.mismatch(state)
        if problem:
            raise CacheMismatchError(f"The prompt cache does not fit the model: layer {i} {problem}.")
