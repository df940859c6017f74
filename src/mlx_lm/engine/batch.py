"""Many prompts at once through the engine: `batch_generate`, and `BatchGenerator` for those who step themselves."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import RequestError
from ..grammar import Constraint
from ..sampling import LogitsProcessor, Sampler, greedy_sampler
from ..state import State
from ..tokenizer import TokenizerWrapper
from ..types import BatchResponse, BatchStats
from .api import wrap_tokenizer
from .engine import Engine
from .kv import apply_kv_options, kv_options
from .request import PrefillProgress, Request, TokenEvent
from .scheduler import Policy
from .speculate import Speculation
from .text import TextStream, check_stop_strings

__all__ = ["BatchGenerator", "GenerationResult", "PromptProgress", "batch_generate"]


@dataclass(frozen=True)
class PromptProgress:
    """A step of a prompt: `progress` is (tokens done, tokens in all)."""

    uid: int
    progress: tuple[int, int]
    end_of_segment: bool
    end_of_prompt: bool


@dataclass(frozen=True)
class GenerationResult:
    """One token of one sequence; `prompt_cache` and `all_tokens` come with its last."""

    uid: int
    token: int
    logprobs: mx.array | None
    finish_reason: str | None
    prompt_cache: list[State] | None = None
    all_tokens: list[int] | None = None


class BatchGenerator:
    """Continuous batching under the caller's control: insert prompts at any time, call `next` until all are done.

    Args:
        stop_tokens: token sequences that end every sequence.
        completion_batch_size: sequences that decode together.
        prefill_batch_size: kept for callers of mlx-lm; one prompt is computed at a time.
        max_kv_size, kv_bits, kv_group_size, quantized_kv_start: how fresh prompt caches are kept.
        speculation: how every sequence's tokens are guessed; the answers are the same without.
        prefer_prefill_when_pending: pause decoding while prompts are pending and the batch has room.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        max_tokens: int | None = None,
        stop_tokens: Sequence[Sequence[int]] | None = None,
        sampler: Sampler | None = None,
        logits_processors: Sequence[LogitsProcessor] | None = None,
        completion_batch_size: int = 32,
        prefill_batch_size: int = 8,
        prefill_step_size: int = 2048,
        max_kv_size: int | None = None,
        kv_bits: int | None = None,
        kv_group_size: int = 64,
        quantized_kv_start: int = 0,
        prefer_prefill_when_pending: bool = False,
        speculation: Speculation | None = None,
        stream: Any = None,
    ):
        if prefill_batch_size < 1:
            raise RequestError(f"prefill_batch_size must be at least 1, not {prefill_batch_size}.")
        policy: Policy = "prefill_first" if prefer_prefill_when_pending else "fair"
        self._engine = Engine(
            model, max_batch=completion_batch_size, prefill_step_size=prefill_step_size, policy=policy
        )
        self._max_tokens = max_tokens
        self._stop = tuple(tuple(s) for s in stop_tokens or ())
        self._sampler = sampler or greedy_sampler
        self._processors = tuple(logits_processors or ())
        self._kv = kv_options(kv_bits, kv_group_size, quantized_kv_start, max_kv_size)
        self._speculation = speculation
        self._stream = stream
        self._segments: dict[int, list[int]] = {}
        self._wall = 0.0

    def insert(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int | Sequence[int | None] | None = None,
        caches: Sequence[list[State] | None] | None = None,
        all_tokens: Sequence[Sequence[int] | None] | None = None,
        samplers: Sequence[Sampler | None] | None = None,
        logits_processors: Sequence[Sequence[LogitsProcessor] | None] | None = None,
        stop_sequences: Sequence[Sequence[Sequence[int]] | None] | None = None,
        constraints: Sequence[Constraint | None] | None = None,
    ) -> list[int]:
        """Adds prompts (token ids) and returns their ids; each list argument has one entry for each prompt.

        `caches` are moved forward in place; `all_tokens` is what they hold, for the processors' history.
        `constraints` are where the answers stand in their grammars; copies are moved on.
        """
        limits = max_tokens if isinstance(max_tokens, Sequence) else [max_tokens] * len(prompts)
        columns = [caches, all_tokens, samplers, logits_processors, stop_sequences, constraints]
        filled = [c if c is not None else [None] * len(prompts) for c in columns]
        for column in (limits, *filled):
            if len(column) != len(prompts):
                raise RequestError(f"Expected {len(prompts)} entries, one for each prompt; got {len(column)}.")
        requests = [
            self._request(prompt, limit, *rest) for prompt, limit, *rest in zip(prompts, limits, *filled, strict=True)
        ]  # all are checked before any is admitted
        return [self._engine.add(request) for request in requests]

    def insert_segments(self, segments: Sequence[Sequence[Sequence[int]]], *args: Any, **kwargs: Any) -> list[int]:
        """As `insert`, with each prompt in segments; the ends of segments are reported by `next`."""
        uids = self.insert([[t for s in prompt for t in s] for prompt in segments], *args, **kwargs)
        for uid, prompt in zip(uids, segments, strict=True):
            ends, total = [], 0
            for segment in prompt:
                total += len(segment)
                ends.append(total)
            self._segments[uid] = ends
        return uids

    def next(self) -> tuple[list[PromptProgress], list[GenerationResult]]:
        """One step: what prompts and what sequences did. Raises the error of a sequence that failed."""
        start = time.perf_counter()
        with mx.stream(self._stream) if self._stream is not None else _no_stream():
            events = self._engine.step()
        self._wall += time.perf_counter() - start
        prompts = [self._progress(e) for e in events if isinstance(e, PrefillProgress)]
        return prompts, [self._result(e) for e in events if isinstance(e, TokenEvent)]

    def next_generated(self) -> list[GenerationResult]:
        """Steps until there are new tokens; an empty list when all are done."""
        while not self._engine.idle:
            _, results = self.next()
            if results:
                return results
        return []

    def remove(self, uids: Iterable[int], return_prompt_caches: bool = False) -> dict[int, list[State]] | None:
        """Ends sequences now; with `return_prompt_caches`, their states by id."""
        caches = {}
        for uid in uids:
            self._engine.cancel(uid)
            self._segments.pop(uid, None)
            taken = self._engine.take(uid)
            if taken is not None:
                caches[uid] = taken[0]
        return caches if return_prompt_caches else None

    def _end_at(self, uid: int, consumed: int) -> list[State] | None:
        """Ends a sequence at a token that it has given out; its states, which hold what comes before."""
        self._engine.cancel(uid, consumed=consumed)
        self._segments.pop(uid, None)
        taken = self._engine.take(uid)
        return None if taken is None else taken[0]

    def extract_cache(self, uids: Iterable[int]) -> dict[int, tuple[list[State], list[int]]]:
        """Ends sequences now and returns (states, tokens in them) by id."""
        result = {}
        for uid in uids:
            self._engine.cancel(uid)
            taken = self._engine.take(uid)
            if taken is not None:
                result[uid] = (taken[0], taken[1][: max((s.offset for s in taken[0]), default=0)])
        return result

    @property
    def prompt_cache_nbytes(self) -> int:
        """Bytes held by the states of live sequences."""
        return self._engine.stats().state_bytes

    @contextmanager
    def stats(self) -> Iterator[Callable[[], BatchStats]]:
        """Counts what happens inside the block: `with generator.stats() as read: ...; read()`."""
        before, wall = vars(self._engine.counters).copy(), self._wall
        start = time.perf_counter()

        def read() -> BatchStats:
            done = {k: v - before[k] for k, v in vars(self._engine.counters).items()}
            total = time.perf_counter() - start
            working = done["prompt_time"] + done["decode_time"]
            return BatchStats(
                **done,
                prompt_tps=done["prompt_tokens"] / max(done["prompt_time"], 1e-9),
                generation_time=done["decode_time"],
                generation_tps=done["generation_tokens"] / max(total - done["prompt_time"], 1e-9),
                decode_tps=done["generation_tokens"] / max(done["decode_time"], 1e-9),
                wall_time=total,
                overhead_time=max(self._wall - wall - working, 0.0),
                peak_memory=mx.get_peak_memory() / 1e9,
            )

        yield read

    def close(self) -> None:
        """Ends everything that is live."""
        for uid in self._engine.live:
            self._engine.cancel(uid)
            self._engine.take(uid)
        self._segments.clear()

    def _request(
        self,
        prompt: Sequence[int],
        limit: int | None,
        cache: list[State] | None,
        history: Sequence[int] | None,
        sampler: Sampler | None,
        processors: Sequence[LogitsProcessor] | None,
        stop: Sequence[Sequence[int]] | None,
        constraint: Constraint | None,
    ) -> Request:
        if cache is not None:
            apply_kv_options(cache, self._kv)
        limit = self._max_tokens if limit is None else limit
        return Request(
            prompt=tuple(int(t) for t in prompt),
            max_tokens=None if limit == -1 else limit,
            stop_sequences=self._stop if stop is None else tuple(tuple(s) for s in stop),
            sampler=sampler or self._sampler,
            logits_processors=self._processors if processors is None else tuple(processors),
            constraint=constraint,
            speculation=self._speculation,
            states=cache or None,
            history=tuple(history or ()),
            kv=self._kv,
            keep_states=True,
        )

    def _progress(self, event: PrefillProgress) -> PromptProgress:
        ends = self._segments.get(event.uid, [])
        done = event.done == event.total
        return PromptProgress(event.uid, (event.done, event.total), done or event.done in ends, done)

    def _result(self, event: TokenEvent) -> GenerationResult:
        if event.error is not None:
            raise event.error
        states, tokens = None, None
        if event.finish_reason is not None:
            self._segments.pop(event.uid, None)
            taken = self._engine.take(event.uid)
            states, tokens = taken if taken is not None else (None, None)
        return GenerationResult(event.uid, event.token, event.logprobs, event.finish_reason, states, tokens)


def batch_generate(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    prompt_caches: Sequence[list[State]] | None = None,
    max_tokens: int | Sequence[int] | None = None,
    verbose: bool = False,
    return_prompt_caches: bool = False,
    return_token_ids: bool = False,
    return_logprobs: bool = False,
    *,
    stop: str | Sequence[str] | None = None,
    output_type: Any = None,
    close_within_budget: bool = False,
    after_thinking: bool | None = None,
    **kwargs: Any,
) -> BatchResponse:
    """The texts that follow several prompts (lists of token ids), computed together.

    Args:
        prompt_caches: states of each prompt's beginning, moved forward in place; `prompts` come after them.
        max_tokens: for all or for each; None or -1 is no limit.
        stop: strings that end a text; they are not part of it.
        output_type: what every answer has to be, or a list with one for each (None for free text); this and the next
            two as `stream_generate`.
        kwargs: as `BatchGenerator`.
    """
    if any(isinstance(p, str) for p in prompts):
        raise RequestError("batch_generate takes prompts as lists of token ids: encode them with the tokenizer first.")
    wrapped = wrap_tokenizer(tokenizer)
    stops = check_stop_strings(stop)
    ends = frozenset(wrapped.eos_token_ids)
    constraints = _constraints(
        output_type,
        wrapped,
        prompts,
        max_tokens,
        close_within_budget=close_within_budget,
        after_thinking=after_thinking,
    )
    generator = BatchGenerator(model, stop_tokens=[(t,) for t in sorted(ends)], **kwargs)
    with generator.stats() as read:
        uids = generator.insert(prompts, max_tokens, caches=prompt_caches, constraints=constraints)
        index = {uid: i for i, uid in enumerate(uids)}
        streams = [TextStream(wrapped.detokenizer, stops) for _ in uids]
        texts, reasons = [""] * len(uids), ["stop"] * len(uids)
        ids: list[list[int]] = [[] for _ in uids]
        logprobs: list[list[Any]] = [[] for _ in uids]
        caches: list[Any] = [None] * len(uids)
        done = 0
        while results := generator.next_generated():
            for r in results:
                i = index[r.uid]
                if streams[i].stopped is not None:  # what came in the same step after the stop
                    caches[i] = r.prompt_cache or caches[i]
                    continue
                ids[i].append(r.token)
                if return_logprobs:
                    logprobs[i].append(r.logprobs)
                texts[i] += streams[i].add(r.token) if r.token not in ends else ""
                if r.finish_reason is not None:
                    texts[i] += streams[i].finish()
                    reasons[i], caches[i] = r.finish_reason, r.prompt_cache
                elif streams[i].stopped is not None:
                    caches[i] = generator._end_at(r.uid, len(ids[i]))
                done += r.finish_reason is not None or streams[i].stopped is not None
                if verbose and (r.finish_reason is not None or streams[i].stopped is not None):
                    print(f"\rFinished {done}/{len(uids)}", end="", file=sys.stderr, flush=True)
        if verbose:
            print(file=sys.stderr)
        stats = read()
    if verbose:
        print(
            f"Prompt: {stats.prompt_tokens} tokens, {stats.prompt_tps:.1f} tokens/s\n"
            f"Generation: {stats.generation_tokens} tokens, {stats.generation_tps:.1f} tokens/s\n"
            f"Peak memory: {stats.peak_memory:.3f} GB",
            file=sys.stderr,
        )
    return BatchResponse(
        texts=texts,
        stats=stats,
        caches=caches if return_prompt_caches else None,
        token_ids=ids if return_token_ids else None,
        logprobs=logprobs if return_logprobs else None,
        finish_reasons=reasons,
    )


@contextmanager
def _no_stream() -> Iterator[None]:
    yield


def _constraints(
    output_type: Any,
    tokenizer: TokenizerWrapper,
    prompts: Sequence[Sequence[int]],
    max_tokens: int | Sequence[int] | None,
    *,
    close_within_budget: Any,
    after_thinking: Any,
) -> list[Constraint | None] | None:
    """A constraint for each prompt; None where no answer has one."""
    types = output_type if isinstance(output_type, list) else [output_type] * len(prompts)
    limits = max_tokens if isinstance(max_tokens, Sequence) else [max_tokens] * len(prompts)
    if len(types) != len(prompts) or len(limits) != len(prompts):
        raise RequestError(f"Expected {len(prompts)} output types and limits, one for each prompt.")
    if all(kind is None for kind in types):
        if close_within_budget or after_thinking is not None:
            raise RequestError("close_within_budget and after_thinking need an output_type.")
        return None
    from .structured import answer_constraint  # grammars are imported when one is asked for

    return [
        None
        if kind is None
        else answer_constraint(
            kind, tokenizer, prompt, max_tokens=None if limit == -1 else limit,
            close_within_budget=close_within_budget, after_thinking=after_thinking,
        )
        for kind, prompt, limit in zip(types, prompts, limits, strict=True)
    ]  # fmt: skip
