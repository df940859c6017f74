"""Normalizations. Statistics are always float32; the result has the dtype of `x`."""

import mlx.core as mx

from . import native

_FLOATS = (mx.float32, mx.bfloat16, mx.float16)

__all__ = ["layer_norm", "rms_norm"]


def rms_norm(x: mx.array, weight: mx.array | None, eps: float, *, offset: float = 0.0) -> mx.array:
    """Root-mean-square norm over the last axis, x (..., D), scaled by `offset + weight` (D,).

    Source: Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467. `offset=1` is Gemma's form.
    """
    module = native.extension()
    if module is not None and x.dtype in _FLOATS:
        return module.rms_norm(x, weight, eps, offset)
    if offset and weight is not None:
        weight = weight + offset
    return mx.fast.rms_norm(x, weight, eps)


def layer_norm(x: mx.array, weight: mx.array | None, bias: mx.array | None, eps: float) -> mx.array:
    """Layer norm over the last axis, x (..., D). Source: https://arxiv.org/abs/1607.06450."""
    module = native.extension()
    if module is not None and x.dtype in _FLOATS:
        return module.layer_norm(x, weight, bias, eps)
    return mx.fast.layer_norm(x, weight, bias, eps)
