"""Frozen vocabulary of results: what generation gives back, step by step and in the end. Imports no MLX."""

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["BatchResponse", "BatchStats", "FinishReason", "GenerationResponse"]

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class GenerationResponse:
    """One generated token and where generation stands.

    Attributes:
        text: the text that this token completes; may be empty, or several characters. The last response carries
            what was held back.
        token: the token's id.
        logprobs: log-probabilities (V,) before sampling, a lazy MLX array that costs nothing unless used.
        from_draft: whether a draft proposed the token.
        prompt_tokens, generation_tokens: counts so far.
        prompt_tps, generation_tps: tokens per second.
        peak_memory: gigabytes (1e9 bytes).
        finish_reason: "stop" at an end token or stop string, "length" at a limit; None before the end.
    """

    text: str
    token: int
    logprobs: Any
    from_draft: bool
    prompt_tokens: int
    prompt_tps: float
    generation_tokens: int
    generation_tps: float
    peak_memory: float
    finish_reason: str | None = None


@dataclass(frozen=True)
class BatchStats:
    """Counts, seconds and tokens per second of a batch; memory in gigabytes (1e9 bytes)."""

    prompt_tokens: int = 0
    prompt_time: float = 0.0
    prompt_tps: float = 0.0
    generation_tokens: int = 0
    generation_steps: int = 0
    generation_time: float = 0.0
    generation_tps: float = 0.0
    decode_time: float = 0.0
    decode_tps: float = 0.0
    wall_time: float = 0.0
    overhead_time: float = 0.0
    peak_memory: float = 0.0


@dataclass(frozen=True)
class BatchResponse:
    """Results of `batch_generate`, one entry for each prompt in its order.

    Attributes:
        texts: generated texts.
        stats: counts and speeds of the whole batch.
        caches: the prompt caches, when asked for.
        token_ids: generated ids, when asked for.
        logprobs: log-probabilities (V,) of each generated token, when asked for.
        finish_reasons: "stop" or "length" for each.
    """

    texts: list[str]
    stats: BatchStats
    caches: list[Any] | None = None
    token_ids: list[list[int]] | None = None
    logprobs: list[list[Any]] | None = None
    finish_reasons: list[str] = field(default_factory=list)
