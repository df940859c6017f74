"""Choosing from large vocabularies."""

import mlx.core as mx

from ..errors import RequestError
from . import native

__all__ = ["argmax", "draw", "log_softmax", "top_k", "top_p"]

_FLOATS = (mx.float32, mx.bfloat16, mx.float16)


def argmax(x: mx.array) -> mx.array:
    """Index of the first largest value along the last axis, x (..., V) -> (...) uint32; a NaN counts as largest."""
    module = native.extension()
    if module is not None and x.dtype in _FLOATS and x.ndim > 0 and x.shape[-1] > 0:
        y = module.argmax(x)
        if y is not None:
            return y
    return mx.argmax(x, axis=-1)


def top_k(logits: mx.array, k: int) -> tuple[mx.array, mx.array]:
    """The k largest along the last axis, logits (..., V), 1 <= k <= V: values and uint32 indices, both (..., k).

    Larger values come first, equal ones by index; NaNs come last, in any order.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise RequestError(f"top_k: k must be within 1..{logits.shape[-1]}, not {k}.")
    module = native.extension()
    if module is not None and logits.dtype in _FLOATS:
        found = module.top_k(logits, k)
        if found is not None:
            return found
    indices = mx.sort(mx.argpartition(-logits, kth=k - 1, axis=-1)[..., :k], axis=-1)
    order = mx.argsort(-mx.take_along_axis(logits, indices, axis=-1), axis=-1)
    indices = mx.take_along_axis(indices, order, axis=-1)
    return mx.take_along_axis(logits, indices, axis=-1), indices


def log_softmax(logits: mx.array) -> mx.array:
    """Log-probabilities along the last axis, logits (..., V) -> (..., V) in their dtype."""
    module = native.extension()
    if module is not None and logits.dtype in _FLOATS and logits.ndim > 0 and logits.shape[-1] > 0:
        y = module.log_softmax(logits)
        if y is not None:
            return y
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True) if logits.size else logits


def top_p(logprobs: mx.array, p: float) -> mx.array:
    """Keeps the smallest set of most likely tokens whose probability reaches p, within (0, 1); -inf elsewhere.

    logprobs (..., V). A token stays when what comes before it, larger values first and equal ones by index, holds less
    than p. Source: nucleus sampling, https://arxiv.org/abs/1904.09751.
    """
    if not 0 < p < 1:
        raise RequestError(f"top_p: p must be within (0, 1), not {p}.")
    module = native.extension()
    if module is not None and logprobs.dtype in _FLOATS and logprobs.ndim > 0 and logprobs.shape[-1] > 0:
        y = module.top_p(logprobs, p)
        if y is not None:
            return y
    if not logprobs.size:
        return logprobs
    order = mx.argsort(-logprobs, axis=-1)
    ranked = mx.take_along_axis(mx.exp(logprobs.astype(mx.float32)), order, axis=-1)
    before = mx.cumsum(ranked, axis=-1) - ranked  # what more likely tokens hold already
    kept = mx.put_along_axis(mx.zeros(logprobs.shape, mx.bool_), order, before < p, axis=-1)
    return mx.where(kept, logprobs, -mx.inf)


def draw(logits: mx.array, chance: mx.array) -> mx.array:
    """One index of each row of softmax(logits), logits (..., V), by inverting its distribution: chance (...) float32
    within [0, 1) says where. Returns (...) uint32."""
    module = native.extension()
    if module is not None and logits.dtype in _FLOATS and logits.shape[-1] > 0:
        found = module.draw(logits, chance)
        if found is not None:
            return found
    mass = mx.cumsum(mx.softmax(logits.astype(mx.float32), axis=-1), axis=-1)
    index = (mass <= chance[..., None] * mass[..., -1:]).sum(axis=-1)
    return mx.minimum(index, logits.shape[-1] - 1).astype(mx.uint32)
