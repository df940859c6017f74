"""From a `SamplingSpec` to a sampler and logits processors. Makes MLX arrays: only for the engine's thread.

Contract: values are checked against their ranges here, by name. A processor may be called twice at one place, when a
failed batch step is done again for each sequence alone; it then gives the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..errors import RequestError
from ..sampling import LogitsProcessor, Sampler, make_logits_processors, make_sampler
from ..tokenizer.parsers import ThinkingBudget
from .work import SamplingSpec

__all__ = ["Defaults", "least_tokens", "logits_processors", "sampler", "thinking_limit"]

_CONTEXT = 20  # mlx-lm's habit: the latest 20 tokens count for penalties


@dataclass(frozen=True)
class Defaults:
    """What holds where a request says nothing."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


def sampler(spec: SamplingSpec, defaults: Defaults, tokenizer: Any) -> Sampler:
    """The sampler that `spec` asks for. Raises RequestError for a value out of range."""
    seed = spec.seed
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise RequestError(f"seed must be an integer, not {seed!r}.")
    special: list[int] = []
    if spec.xtc_probability:  # dropping the end or a line break would ruin the text, not vary it
        special = [*tokenizer.eos_token_ids, *tokenizer.encode("\n", add_special_tokens=False)]
    temperature = defaults.temperature if spec.temperature is None else spec.temperature
    try:
        return make_sampler(
            temperature,
            defaults.top_p if spec.top_p is None else spec.top_p,
            defaults.min_p if spec.min_p is None else spec.min_p,
            1,
            defaults.top_k if spec.top_k is None else spec.top_k,
            spec.xtc_probability or 0.0,
            0.1 if spec.xtc_threshold is None else spec.xtc_threshold,
            special,
            typical_p=spec.typical_p or 0.0,
            seed=seed,
        )
    except RequestError as error:
        raise RequestError(str(error).replace("temp must", "temperature must")) from error


def logits_processors(spec: SamplingSpec, vocabulary: int) -> list[LogitsProcessor]:
    """Bias and penalties. Raises RequestError for a value out of range or an id that is no token."""
    for token in spec.logit_bias or ():
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocabulary:
            raise RequestError(f"logit_bias has {token!r}, which is no token id below {vocabulary}.")

    def size(value: int | None) -> int:
        return _CONTEXT if value is None else value

    return make_logits_processors(
        dict(spec.logit_bias) if spec.logit_bias else None,
        spec.repetition_penalty,
        size(spec.repetition_context_size),
        spec.presence_penalty,
        size(spec.presence_context_size),
        spec.frequency_penalty,
        size(spec.frequency_context_size),
    )


def thinking_limit(budget: ThinkingBudget, prompt: int) -> LogitsProcessor:
    """Forces the end of reasoning when its budget is used up. `prompt` is the number of tokens before the answer."""
    seen = prompt

    def limit(tokens: mx.array, logits: mx.array) -> mx.array:
        nonlocal seen
        for token in tokens[seen:].tolist():  # type: ignore[union-attr]
            budget.advance(int(token))  # type: ignore[arg-type]
        seen = max(seen, tokens.size)
        return logits if budget.forced is None else _only(logits, budget.forced[0])

    return limit


def least_tokens(count: int, prompt: int, end_tokens: Sequence[int]) -> LogitsProcessor:
    """Keeps the answer from ending before it has `count` tokens."""
    ends = mx.array(list(end_tokens), mx.int32)

    def least(tokens: mx.array, logits: mx.array) -> mx.array:
        if tokens.size - prompt >= count or ends.size == 0:
            return logits
        return logits.at[:, ends].add(mx.array(-mx.inf, logits.dtype))

    return least


def _only(logits: mx.array, token: int) -> mx.array:
    chosen = mx.arange(logits.shape[-1]) == token
    return mx.where(chosen, mx.zeros_like(logits), mx.array(-mx.inf, logits.dtype))
