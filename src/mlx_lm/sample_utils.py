"""Where mlx-lm's users import samplers and logits processors from."""

from .sampling import (
    apply_min_p,
    apply_top_k,
    apply_top_p,
    apply_typical_p,
    apply_xtc,
    categorical_sampling,
    greedy_sampler,
    make_frequency_penalty,
    make_logit_bias,
    make_logits_processors,
    make_presence_penalty,
    make_repetition_penalty,
    make_sampler,
)

__all__ = [
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
