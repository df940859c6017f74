"""Values as the caches of models trained with low-precision keys hold them: on an 8- or 4-bit float's grid.

A block of the last axis shares one scale. The rounded values are given in the type of the input, which holds them
exactly; gradients pass as if nothing were rounded. Source: OCP Microscaling Formats v1.0 (e4m3, e2m1, e8m0).
"""

from collections.abc import Callable

import mlx.core as mx

__all__ = ["rounded_fp4", "rounded_fp8"]

_BLOCK = 32
_SMALL_BLOCK = 16
_FP8_MOST, _FP4_MOST = 448.0, 6.0
_MANTISSA = (1 << 23) - 1


def rounded_fp8(x: mx.array) -> mx.array:
    """x (..., D) as e4m3 with a power of two for every 32 features; D is a multiple of 32."""
    return _through(x, _BLOCK, lambda most: _power(mx.maximum(most, 1e-4) * (1 / _FP8_MOST)), _e4m3)


def rounded_fp4(x: mx.array, *, fine: bool = False) -> mx.array:
    """x (..., D) as e2m1 with a power of two for every 32 features; `fine`: with an e4m3 scale for every 16."""
    if fine:
        return _through(x, _SMALL_BLOCK, lambda most: _e4m3(mx.maximum(most / _FP4_MOST, 2.0**-9)), _e2m1)
    return _through(x, _BLOCK, lambda most: _power(mx.maximum(most, _FP4_MOST * 2.0**-126) * (1 / _FP4_MOST)), _e2m1)


def _through(
    x: mx.array, size: int, scale_of: Callable[[mx.array], mx.array], grid: Callable[[mx.array], mx.array]
) -> mx.array:
    """x with each block divided by its scale, put on the grid and multiplied again."""
    exact = x.astype(mx.float32)
    blocks = mx.unflatten(mx.stop_gradient(exact), -1, (-1, size))
    scales = scale_of(mx.abs(blocks).max(axis=-1, keepdims=True))
    found = (grid(blocks / scales) * scales).flatten(-2)
    # The difference of neighbours is exact, and so is the sum.
    return (exact + mx.stop_gradient(found - exact)).astype(x.dtype)


def _power(x: mx.array) -> mx.array:
    """The least power of two that is at least x > 0."""
    bits = x.view(mx.int32)
    return ((bits + _MANTISSA) & ~_MANTISSA).view(mx.float32)


def _e4m3(x: mx.array) -> mx.array:
    return _on_grid(x, 3, -6, _FP8_MOST)


def _e2m1(x: mx.array) -> mx.array:
    return _on_grid(x, 1, 0, _FP4_MOST)


def _on_grid(x: mx.array, digits: int, least: int, most: float) -> mx.array:
    """The nearest float with `digits` binary places and exponents from `least`, ties to even, up to +-`most`."""
    x = mx.clip(x, -most, most)
    exponents = mx.maximum((mx.abs(x).view(mx.int32) >> 23) - 127, least)
    step = ((exponents - digits + 127) << 23).view(mx.float32)
    return mx.round(x / step) * step
