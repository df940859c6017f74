"""Choosing from large vocabularies."""

import mlx.core as mx

from . import native

__all__ = ["argmax"]

_FLOATS = (mx.float32, mx.bfloat16, mx.float16)


def argmax(x: mx.array) -> mx.array:
    """Index of the first largest value along the last axis, x (..., V) -> (...) uint32; a NaN counts as largest."""
    module = native.extension()
    if module is not None and x.dtype in _FLOATS and x.ndim > 0 and x.shape[-1] > 0:
        y = module.argmax(x)
        if y is not None:
            return y
    return mx.argmax(x, axis=-1)
