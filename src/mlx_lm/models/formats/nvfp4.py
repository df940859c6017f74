"""NVFP4: e2m1 codes, e4m3 scales of 16 columns, and one float32 factor for the tensor.

MLX's nvfp4 is this without the factor. So the weights are packed as they are where all factors of the checkpoint are
one, and become dense otherwise: no other layout of MLX holds the product exactly.
"""

from dataclasses import dataclass

import mlx.core as mx

from .layout import Converted, Packed, decode_e2m1, expect, float8_table

__all__ = ["Float4", "convert_all"]


@dataclass(frozen=True)
class Float4:
    """codes (N, K/2) bytes, scales (N, K/16) bytes; w = e2m1 * e4m3 * factor, or / factor when `inverse`."""

    name: str
    codes: mx.array
    scales: mx.array
    factor: mx.array
    inverse: bool = False

    def __post_init__(self) -> None:
        codes, scales = self.codes, self.scales
        fits = codes.ndim == scales.ndim == 2 and codes.dtype == scales.dtype == mx.uint8 and self.factor.size == 1
        fits = fits and codes.shape == (scales.shape[0], scales.shape[1] * 8)
        expect(fits, self.name, f"packed {codes.shape} and scales {scales.shape} are not NVFP4")

    def packed(self) -> Packed:
        return Packed(mx.contiguous(self.codes).view(mx.uint32), self.scales, None, 16, 4, "nvfp4")

    def dense(self, dtype: mx.Dtype) -> mx.array:
        factor = self.factor.astype(mx.float32).reshape(1, 1)
        scales = mx.take(float8_table("e4m3"), self.scales)
        scales = scales / factor if self.inverse else scales * factor
        groups = mx.unflatten(decode_e2m1(self.codes), -1, (-1, 16))
        return (groups * scales[..., None]).flatten(-2).astype(dtype)


def convert_all(weights: dict[str, Float4], dtype: mx.Dtype) -> Converted:
    """All NVFP4 weights of a checkpoint, in one layout."""
    plain = all(w.factor.astype(mx.float32).item() == 1.0 for w in weights.values())
    return {name: w.packed() if plain else w.dense(dtype) for name, w in weights.items()}
