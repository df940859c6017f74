"""Rotary position embedding. Source: Su et al. 2021, https://arxiv.org/abs/2104.09864."""

import mlx.core as mx

from . import native

_FLOATS = (mx.float32, mx.bfloat16, mx.float16)

__all__ = ["rope"]


def rope(
    x: mx.array,
    dims: int,
    *,
    traditional: bool = False,
    base: float | None = None,
    scale: float = 1.0,
    offset: int | mx.array = 0,
    freqs: mx.array | None = None,
) -> mx.array:
    """Rotates the first `dims` features of x (B, H, L, D); row b starts at position `offset` or `offset[b]`.

    Pass either `base` or `freqs` (dims/2,), the wavelength divisors `base ** (2i/dims)`.
    """
    module = native.extension()
    if module is not None and x.ndim == 4 and x.dtype in _FLOATS:
        return module.rope(x, dims, traditional, base or 0.0, scale, offset, freqs)
    return mx.fast.rope(x, dims, traditional=traditional, base=base, scale=scale, offset=offset, freqs=freqs)
