"""From a prepared work to the engine's request, and from its events to the job's. Only for the engine's thread.

Samplers and logits processors hold arrays, and log-probabilities are arrays: both are made and read where MLX runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from ..engine import Request, TokenEvent
from ..engine.engine import Event
from . import sampling
from .job import Ended, EngineJob, TokenCame
from .loading import Loaded
from .prompt import Prepared
from .score import token_note
from .work import Progress, Work

__all__ = ["Fault", "build_request", "listener"]

# Tests give one to let a stage fail: called with the work and "prefill", "decode", "sample", "detokenize" or "parse".
Fault = Callable[[Work, str], object]


def build_request(
    work: Work,
    prepared: Prepared,
    loaded: Loaded,
    defaults: sampling.Defaults,
    *,
    time_limit: float | None = None,
    fault: Fault | None = None,
) -> Request:
    """The engine's request. Raises RequestError for values of the sampling that are out of range."""
    prompt, spec, ends = len(prepared.tokens), work.sampling, loaded.tokenizer.eos_token_ids
    processors = sampling.logits_processors(spec, loaded.style.vocabulary)
    if work.min_tokens:
        processors.append(sampling.least_tokens(work.min_tokens, prompt, sorted(ends)))
    if prepared.budget is not None:
        processors.append(sampling.thinking_limit(prepared.budget, prompt))
    sampler = sampling.sampler(spec, defaults, loaded.tokenizer)
    progress = None
    if fault is not None:
        sampler, processors, progress = _faulty(fault, work, sampler, processors)
    limits = [t for t in (work.timeout, time_limit) if t is not None]
    return Request(
        prompt=prepared.tokens,
        max_tokens=prepared.max_tokens,
        stop_tokens=frozenset() if work.ignore_eos else frozenset(ends),
        sampler=sampler,
        logits_processors=tuple(processors),
        constraint=prepared.constraint,
        speculation=loaded.speculation,
        kv=loaded.kv,
        on_progress=progress,
        priority=work.priority,
        deadline=time.monotonic() + min(limits) if limits else None,
        cache_salt=work.cache_salt,
    )


def listener(job: EngineJob, top: int | None) -> Callable[[Event], None]:
    """What the engine's thread calls for each event of a request."""

    def listen(event: Event) -> None:
        if not isinstance(event, TokenEvent):
            job.put(Progress(event.done, event.total), event.cached)
        elif event.error is not None:
            job.put(Ended(event.error))
        else:
            try:
                note = None if top is None or event.logprobs is None else token_note(event.token, event.logprobs, top)
            except Exception as error:  # this request's alone
                job.put(Ended(error))
                return
            job.put(TokenCame(event.token, note, event.finish_reason))

    return listen


def _faulty(fault: Fault, work: Work, sampler: Any, processors: list[Any]) -> tuple[Any, list[Any], Any]:
    """The same, with a fault before each."""

    def sample(logprobs: mx.array) -> mx.array:
        fault(work, "sample")
        return sampler(logprobs)

    def process(tokens: mx.array, logits: mx.array) -> mx.array:
        fault(work, "decode")
        return logits

    return sample, [*processors, process], lambda done, total: fault(work, "prefill")
