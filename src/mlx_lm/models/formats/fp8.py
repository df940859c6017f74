"""Eight-bit floats with scales: `fp8` (blocks, DeepSeek-V3), `mxfp8`, `fbgemm_fp8` (rows).

Where every scale of the checkpoint is a power of two (ue8m0 and other rounded scales) and covers whole groups of 32
columns, the codes are MLX's mxfp8 as they are. Otherwise weights are decoded in float32, multiplied, and cast.
Four-bit experts inside such checkpoints (int8 bytes of two e2m1 values, ue8m0 scales of 32) are MLX's mxfp4.
Sources: https://arxiv.org/abs/2412.19437 section 3.3; OCP Microscaling Formats v1.0.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from ...errors import ConfigError, WeightsError
from .layout import Converted, Packed, expect, float8_table

__all__ = ["Float8", "block_size", "convert", "decode", "mxfp4", "mxfp8"]

Block = tuple[int, int] | None
_SUFFIXES = ("_scale_inv", ".weight_scale", ".scale")  # the last is DeepSeek's own, since V4


class Float8:
    """One weight (..., N, K) of codes with a grid of scales, checked; `block` is the config's block size."""

    def __init__(self, name: str, codes: mx.array, scales: mx.array, block: Block = None, kind: str = "e4m3"):
        expect(codes.ndim >= 2 and codes.dtype == mx.uint8, name, f"is {codes.dtype} {codes.shape}, not 8-bit floats")
        self.name, self.codes, self.kind = name, codes, kind
        rows, columns = codes.shape[-2:]
        self.exponents = scales.dtype == mx.uint8  # ue8m0
        self.scales = self._grid(scales, rows)  # (..., n, k)
        n, k = self.scales.shape[-2:]
        fits = block is not None and (-(-rows // block[0]), -(-columns // block[1])) == (n, k)
        if not fits:
            even = n and k and rows % n == 0 and columns % k == 0
            expect(bool(even), name, f"scales {scales.shape} fit no grid over {codes.shape}")
        self.block = block if fits and block is not None else (rows // n, columns // k)

    def _grid(self, scales: mx.array, rows: int) -> mx.array:
        lead = self.codes.shape[:-2]
        if scales.size == 1:
            return scales.reshape(1, 1)
        if scales.ndim == 4 and not lead:  # (n, 1, k, 1)
            scales = scales.reshape(scales.shape[0], scales.shape[2])
        if scales.ndim == 1:
            return scales.reshape(*lead, 1, 1) if lead and scales.shape == lead else scales[:, None]
        ok = scales.ndim == 2 or scales.shape[:-2] == lead
        expect(ok, self.name, f"scales {scales.shape} fit no grid over {self.codes.shape}")
        return scales

    def powers_of_two(self) -> bool:
        """Whether the weight is MLX's mxfp8 as it stands (looks at the scales)."""
        columns = self.codes.shape[-1]
        whole = columns % 32 == 0 and (self.block[1] % 32 == 0 or self.block[1] >= columns)
        if not whole or self.codes.ndim != 2 or self.kind != "e4m3" or self.exponents:
            return whole and self.codes.ndim == 2 and self.kind == "e4m3"
        values = np.array(self.scales.astype(mx.float32))
        mantissa, exponent = np.frexp(values)
        return bool(((mantissa == 0.5) & (exponent > -126) & (exponent <= 128)).all())


def decode(weight: Float8, dtype: mx.Dtype) -> mx.array:
    """The dense weight: codes times scales in float32, then cast."""
    if weight.kind == "e4m3":
        codes = mx.from_fp8(weight.codes, mx.float32)
    else:
        codes = mx.take(float8_table(weight.kind), weight.codes)
    scales = weight.scales
    scales = mx.take(float8_table("e8m0"), scales) if weight.exponents else scales.astype(mx.float32)
    return (codes * _spread(scales, weight.codes.shape, weight.block)).astype(dtype)


def mxfp8(weight: Float8) -> Packed:
    """The same weight in MLX's mxfp8, for scales that are powers of two."""
    rows, columns = weight.codes.shape
    exponents = weight.scales
    if not weight.exponents:
        bits = exponents.astype(mx.float32).view(mx.uint32)
        exponents = (bits >> 23).astype(mx.uint8)
    height, width = weight.block
    exponents = _spread(exponents, (rows, columns // 32), (height, max(width // 32, 1)))
    scales = mx.contiguous(mx.broadcast_to(exponents, (rows, columns // 32)))
    return Packed(mx.contiguous(weight.codes).view(mx.uint32), scales, None, 32, 8, "mxfp8")


def mxfp4(name: str, codes: mx.array, exponents: mx.array) -> Packed:
    """Bytes (N, K/2) of two e2m1 values with ue8m0 scales (N, K/32): MLX's mxfp4 byte for byte."""
    fits = exponents.dtype == mx.uint8 and (codes.shape[0], codes.shape[-1]) == (
        exponents.shape[0],
        exponents.shape[-1] * 16,
    )
    expect(fits and codes.ndim == 2, name, f"packed {codes.shape} and scales {exponents.shape} are not MXFP4")
    return Packed(mx.contiguous(codes).view(mx.uint32), exponents, None, 32, 4, "mxfp4")


def _spread(scales: mx.array, shape: tuple[int, ...], block: tuple[int, int]) -> mx.array:
    """A grid (..., n, k) over blocks, as something that broadcasts against `shape`."""
    for axis, size in ((-2, block[0]), (-1, block[1])):
        if scales.shape[axis] > 1 and size > 1:
            scales = mx.repeat(scales, size, axis=axis)
    return scales[..., : shape[-2], : shape[-1]]


def block_size(value: Any) -> Block:
    """`weight_block_size` or `block_structure`: two numbers, or "128x128"; None when there are no blocks."""
    if value is None:
        return None
    parts = value.lower().split("x") if isinstance(value, str) else value
    try:
        height, width = (int(n) for n in parts)
    except (TypeError, ValueError):
        height = width = 0
    if height <= 0 or width <= 0:
        raise ConfigError(f"config.json: quantization_config has the block size {value!r}; expected two numbers.")
    return height, width


def convert(weights: dict[str, mx.array], settings: Mapping[str, Any], dtype: mx.Dtype) -> Converted:
    """Decodes (or packs, see the module's text) every weight that has a scale beside it."""
    block, kind = block_size(settings.get("weight_block_size")), str(settings.get("fmt") or "e4m3").lower()
    if kind not in ("e4m3", "e5m2"):
        raise ConfigError(f"config.json: quantization_config.fmt {kind!r} is not supported; known: e4m3, e5m2.")
    result: Converted = dict(weights)
    found: dict[str, Float8] = {}
    for name in weights:
        suffix = next((s for s in _SUFFIXES if name.endswith(s)), None)
        if suffix is None:
            continue
        target = name.removesuffix(".scale") + ".weight" if suffix == ".scale" else name.removesuffix("_scale_inv")
        target = target.removesuffix("_scale")
        if suffix == ".scale" and (target not in weights or weights[target].dtype not in (mx.uint8, mx.int8)):
            continue  # a parameter of that name
        codes, scales = weights.get(target), result.pop(name)
        if codes is None:
            raise WeightsError(f"{name}: there is no {target} for this scale.")
        if codes.dtype == mx.int8:
            result[target] = mxfp4(target, codes.view(mx.uint8), scales)  # type: ignore[arg-type]
        else:
            found[target] = Float8(target, codes, scales, block, kind)  # type: ignore[arg-type]
    packs = all(w.powers_of_two() for w in found.values() if w.codes.ndim == 2)
    for name, weight in found.items():
        result[name] = mxfp8(weight) if packs and weight.codes.ndim == 2 else decode(weight, dtype)
    return result
