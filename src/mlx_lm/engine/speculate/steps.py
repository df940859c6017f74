"""Speculation under the names that mlx-lm's users know: generators of tokens over the engine.

All of them give the tokens that `generate_step` gives. When a consumer stops, the states hold everything but the last
token that it got.
"""

from collections.abc import Generator, Sequence
from typing import Any, TypedDict, Unpack

import mlx.core as mx
import mlx.nn as nn

from ...errors import UnsupportedError
from ...sampling import LogitsProcessor, Sampler
from ...state import State
from ..api import make_request, token_events, token_ids
from ..kv import kv_options
from .make import has_head
from .options import DraftSpeculation, HeadSpeculation, NGramSpeculation, Probe, Speculation

__all__ = [
    "auto_speculation",
    "auto_speculative_generate_step",
    "draft_speculation",
    "mtp_generate_step",
    "prompt_lookup_generate_step",
    "speculative_generate_step",
]

Steps = Generator[tuple[int, mx.array, bool], None, None]


class StepOptions(TypedDict, total=False):
    """What all of them take by name, with the meaning that it has in `generate_step`; the defaults are `_steps`'s."""

    max_tokens: int | None
    sampler: Sampler | None
    logits_processors: Sequence[LogitsProcessor] | None
    prefill_step_size: int
    kv_bits: int | None
    kv_group_size: int
    quantized_kv_start: int


def speculative_generate_step(
    prompt: mx.array | Sequence[int],
    model: nn.Module,
    draft_model: nn.Module,
    stream: Any = None,
    *,
    num_draft_tokens: int = 2,
    prompt_cache: list[State] | None = None,
    **options: Unpack[StepOptions],
) -> Steps:
    """Tokens that follow `prompt` as (token, log-probabilities (V,), from_draft), guessed by a draft model.

    `prompt_cache` is the model's states followed by the draft model's.
    """
    states, speculation = draft_speculation(model, draft_model, num_draft_tokens, prompt_cache)
    return _steps(prompt, model, speculation, states, stream, **options)


def prompt_lookup_generate_step(
    prompt: mx.array | Sequence[int],
    model: nn.Module,
    *,
    prompt_lookup_num_tokens: int = 5,
    prompt_lookup_min_match: int = 3,
    prompt_cache: list[State] | None = None,
    stream: Any = None,
    **options: Unpack[StepOptions],
) -> Steps:
    """As `speculative_generate_step`; the guess is what followed the last `prompt_lookup_min_match` tokens before.

    Raises:
        RequestError: a number is less than 1.
    """
    speculation = NGramSpeculation(prompt_lookup_num_tokens, prompt_lookup_min_match)
    return _steps(prompt, model, speculation, prompt_cache, stream, **options)


def auto_speculative_generate_step(
    prompt: mx.array | Sequence[int],
    model: nn.Module,
    *,
    prompt_lookup_num_tokens: int | None = None,
    prompt_lookup_max_matches: int = 2,
    auto_spec_probe_tokens: int = 16,
    auto_spec_probe_threshold: float = 0.30,
    prompt_cache: list[State] | None = None,
    stream: Any = None,
    **options: Unpack[StepOptions],
) -> Steps:
    """As `speculative_generate_step`, with whatever speculation the model has, as long as it pays; see `Probe`."""
    speculation = auto_speculation(
        model, prompt_lookup_num_tokens, prompt_lookup_max_matches, auto_spec_probe_tokens, auto_spec_probe_threshold
    )
    return _steps(prompt, model, speculation, prompt_cache, stream, **options)


def mtp_generate_step(
    prompt: mx.array | Sequence[int],
    model: nn.Module,
    *,
    num_tokens: int = 1,
    prompt_cache: list[State] | None = None,
    stream: Any = None,
    **options: Unpack[StepOptions],
) -> Steps:
    """As `speculative_generate_step`, guessed by the model's own next-token head.

    Raises:
        UnsupportedError: the model has none.
    """
    return _steps(prompt, model, HeadSpeculation(num_tokens), prompt_cache, stream, **options)


def auto_speculation(
    model: nn.Module,
    num_tokens: int | None = None,
    max_match: int = 2,
    probe_tokens: int = 16,
    probe_threshold: float = 0.30,
) -> Speculation:
    """The model's next-token head where it has one, else prompt lookup for prompts of 256 tokens or more."""
    if has_head(model):
        return HeadSpeculation(probe=Probe(probe_tokens, probe_threshold))
    probe = Probe(probe_tokens, probe_threshold, min_prompt=256)
    return NGramSpeculation(8 if num_tokens is None else num_tokens, 1, max_match, probe)


def draft_speculation(
    model: nn.Module, draft_model: nn.Module, num_tokens: int, prompt_cache: list[State] | None
) -> tuple[list[State] | None, DraftSpeculation]:
    """Takes a prompt cache of both models apart: the model's states and the speculation.

    Raises:
        UnsupportedError: the cache holds a beginning that the draft model has not seen.
    """
    if not prompt_cache:
        return prompt_cache, DraftSpeculation(draft_model, num_tokens)
    layers = len(model.layers)  # type: ignore[arg-type]
    main, draft = list(prompt_cache[:layers]), list(prompt_cache[layers:])
    if not draft and any(not state.empty() for state in main):
        raise UnsupportedError(
            "The prompt cache was made without a draft model; continue without one, or make the cache of both "
            "models: make_prompt_cache(model) + make_prompt_cache(draft_model)."
        )
    return main, DraftSpeculation(draft_model, num_tokens, draft or None)


def _steps(
    prompt: mx.array | Sequence[int],
    model: nn.Module,
    speculation: Speculation,
    prompt_cache: list[State] | None,
    stream: Any,
    *,
    max_tokens: int | None = 256,
    sampler: Sampler | None = None,
    logits_processors: Sequence[LogitsProcessor] | None = None,
    prefill_step_size: int = 512,
    kv_bits: int | None = None,
    kv_group_size: int = 64,
    quantized_kv_start: int = 0,
) -> Steps:
    options = kv_options(kv_bits, kv_group_size, quantized_kv_start)

    def steps() -> Steps:
        request = make_request(
            token_ids(prompt), model, speculation=speculation, max_tokens=max_tokens, sampler=sampler,
            logits_processors=logits_processors, prompt_cache=prompt_cache, options=options,
        )  # fmt: skip
        for event in token_events(model, request, prefill_step_size, stream):
            assert event.logprobs is not None
            yield event.token, event.logprobs, event.from_draft

    return steps()
