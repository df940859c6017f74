"""Choosing from large vocabularies."""

import mlx.core as mx

from ..errors import RequestError
from . import native

__all__ = ["argmax", "top_k"]

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
