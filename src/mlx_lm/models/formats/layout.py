"""What the checkpoint formats share: bit streams, group scales, and their exact images in MLX's packed layouts.

Contract: every function gives lazy MLX arrays, so a checkpoint is converted tensor by tensor when its parameters are
evaluated; only scales, zero points and group indices (a few percent of a file) are looked at while converting.
An affine image is exact: `w = scale * code + bias` with `bias = -scale * zero`, kept in the scales' half type where
every product is exact there (zero points that are powers of two) and in float32 otherwise.
It knows no tensor names and no config.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...errors import WeightsError

__all__ = [
    "AFFINE_BITS",
    "Converted",
    "Packed",
    "decode_e2m1",
    "decode_pairs",
    "expect",
    "float8_table",
    "integer_image",
    "mlx_group",
    "pack",
    "uniform_groups",
    "unpack",
]

AFFINE_BITS = (2, 3, 4, 8)
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class Packed:
    """A weight (N, K) in one of MLX's packed layouts: weight (N, K*bits/32) uint32, scales (N, K/group_size)."""

    weight: mx.array
    scales: mx.array
    biases: mx.array | None
    group_size: int
    bits: int
    mode: str = "affine"

    def entry(self) -> dict[str, Any]:
        """What MLX's `quantization` says of it."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    def tensors(self, path: str) -> dict[str, mx.array]:
        """Its tensors under the names of the module `path`."""
        named = {f"{path}.weight": self.weight, f"{path}.scales": self.scales}
        return named if self.biases is None else named | {f"{path}.biases": self.biases}


Converted = dict[str, "mx.array | Packed"]
Groups = NDArray[np.int64]  # (K,): the group whose scale a column has


def expect(ok: bool, name: str, what: str) -> None:
    """Raises WeightsError unless `ok`."""
    if not ok:
        raise WeightsError(f"{name}: {what}.")


def unpack(words: mx.array, bits: int) -> mx.array:
    """Codes (..., n * 32 / bits) uint8 of a bit stream of 32-bit words (..., n), lowest bits first."""
    stream = mx.contiguous(words).view(mx.uint8)
    if bits == 8:
        return stream
    if bits == 3:
        three = mx.unflatten(stream, -1, (-1, 3)).astype(mx.uint32)
        whole = three[..., 0] | (three[..., 1] << 8) | (three[..., 2] << 16)
        return ((whole[..., None] >> mx.arange(0, 24, 3, dtype=mx.uint32)) & 7).astype(mx.uint8).flatten(-2)
    shifts = mx.arange(0, 8, bits, dtype=mx.uint8)
    return ((stream[..., None] >> shifts) & (2**bits - 1)).flatten(-2)


def pack(codes: mx.array, bits: int) -> mx.array:
    """Inverse of `unpack`: codes (..., K) -> (..., K * bits / 32) uint32."""
    codes = codes.astype(mx.uint8)
    if bits == 3:
        eight = mx.unflatten(codes, -1, (-1, 8)).astype(mx.uint32)
        whole = (eight << mx.arange(0, 24, 3, dtype=mx.uint32)).sum(axis=-1)
        codes = ((whole[..., None] >> mx.arange(0, 24, 8, dtype=mx.uint32)) & 255).astype(mx.uint8).flatten(-2)
    elif bits != 8:
        parts = mx.unflatten(codes, -1, (-1, 8 // bits))
        codes = parts[..., 0]
        for i in range(1, 8 // bits):
            codes = codes | (parts[..., i] << (bits * i))
    return mx.contiguous(codes).view(mx.uint32)


def uniform_groups(columns: int, groups: int, name: str) -> Groups:
    """The group of each column when all groups are equally long and in order."""
    expect(groups > 0 and columns % groups == 0, name, f"{groups} groups do not divide {columns} columns")
    return np.arange(columns) // (columns // groups)


def mlx_group(groups: Groups) -> int:
    """The largest group size of MLX's affine mode within which all columns have one scale; 0 when there is none."""
    for size in (128, 64, 32):
        if len(groups) % size == 0 and (groups.reshape(-1, size) == groups[::size, None]).all():
            return size
    return 0


def integer_image(
    words: mx.array,
    scales: mx.array,
    zeros: mx.array | int,
    *,
    bits: int,
    groups: Groups,
    group_size: int,
    dtype: mx.Dtype,
) -> Packed | mx.array:
    """The weight `scales * (codes - zeros)`, packed, or dense in `dtype` when `group_size` is 0.

    Args:
        words: codes (N, K) as a bit stream (N, K*bits/32) uint32.
        scales: (N, G) floats. zeros: (N, G) codes, or one for all.
        groups: the group of each column. group_size: what `mlx_group` says, or a divisor of it.
    """
    columns = groups[::group_size] if group_size else groups
    if not group_size:
        offset = zeros if isinstance(zeros, int) else _columns(zeros, columns).astype(mx.float32)
        codes = unpack(words, bits).astype(mx.float32)
        return ((codes - offset) * _columns(scales, columns).astype(mx.float32)).astype(dtype)
    if not _powers_of_two(zeros):
        scales = scales.astype(mx.float32)
    biases = -(scales * (zeros if isinstance(zeros, int) else zeros.astype(scales.dtype)))
    return Packed(words, _columns(scales, columns), _columns(biases, columns), group_size, bits)


def _columns(values: mx.array, columns: Groups) -> mx.array:
    if len(columns) == values.shape[1] and (columns == np.arange(len(columns))).all():
        return values
    return mx.take(values, mx.array(columns.astype(np.uint32)), axis=1)


def _powers_of_two(zeros: mx.array | int) -> bool:
    if isinstance(zeros, int):
        return zeros & (zeros - 1) == 0
    codes = zeros.astype(mx.uint32)
    return bool(mx.all((codes & mx.maximum(codes, 1) - 1) == 0).item())


def float8_table(kind: str) -> mx.array:
    """Float32 values of the 256 codes of "e4m3" (the finite form), "e5m2" or "e8m0" (2 ** (code - 127))."""
    codes = np.arange(256)
    if kind == "e8m0":
        return mx.array(np.where(codes == 255, np.nan, np.ldexp(1.0, codes - 127)).astype(np.float32))
    width, bias = (3, 7) if kind == "e4m3" else (2, 15)
    sign = np.where(codes & 128, -1.0, 1.0)
    exponent, fraction = (codes & 127) >> width, (codes & (2**width - 1)) / 2**width
    values = np.where(exponent == 0, np.ldexp(fraction, 1 - bias), np.ldexp(1 + fraction, exponent - bias))
    if kind == "e4m3":
        values[(codes & 127) == 127] = np.nan
    else:
        values[exponent == 31] = np.where(fraction == 0, np.inf, np.nan)[exponent == 31]
    return mx.array((sign * values).astype(np.float32))


def decode_e2m1(raw: mx.array) -> mx.array:
    """Bytes (..., n) -> float32 (..., 2n): two four-bit floats a byte, the low half first."""
    return decode_pairs(raw, mx.array([*_E2M1, *(-v for v in _E2M1)], mx.float32))


def decode_pairs(raw: mx.array, levels: mx.array, *, high_first: bool = False) -> mx.array:
    """Bytes (..., n) of two codes -> their levels (..., 2n); one gather a byte is a third faster than two."""
    low, high = mx.tile(levels, 16), mx.repeat(levels, 16)  # by byte
    pairs = mx.stack([high, low] if high_first else [low, high], axis=-1)
    return mx.take(pairs, raw, axis=0).flatten(-2)
