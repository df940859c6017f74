"""From logits to tokens: samplers and logits processors."""

from .processors import (
    LogitsProcessor,
    make_frequency_penalty,
    make_logit_bias,
    make_logits_processors,
    make_presence_penalty,
    make_repetition_penalty,
)
from .samplers import (
    Sampler,
    apply_min_p,
    apply_top_k,
    apply_top_p,
    apply_typical_p,
    apply_xtc,
    categorical_sampling,
    greedy_sampler,
    make_sampler,
)

__all__ = [
    "LogitsProcessor",
    "Sampler",
    "apply_min_p",
    "apply_top_k",
    "apply_top_p",
    "apply_typical_p",
    "apply_xtc",
    "categorical_sampling",
    "greedy_sampler",
    "make_frequency_penalty",
    "make_logit_bias",
    "make_logits_processors",
    "make_presence_penalty",
    "make_repetition_penalty",
    "make_sampler",
]
