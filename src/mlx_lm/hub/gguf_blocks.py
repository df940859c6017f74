"""Turn GGUF block formats into MLX's quantized layout, or into float32.

Contract: `to_quantized(raw, type)` gives packed codes with scales (and biases) as MLX's `quantized_matmul` reads them;
`to_float32(raw, type)` gives the weights themselves. Both work on raw block bytes, in numpy, in cache-sized chunks on
a few threads. They know nothing of tensor names, shapes or MLX.

Exactness. Affine weights are `scale * code + bias` over groups of 32. These types have such an image with no error:
Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K, and IQ4_NL and IQ4_XS, whose 16 levels are 8-bit integers. MXFP4 and NVFP4 are MLX
modes of their own. Q6_K, Q3_K and Q2_K keep a scale for every 16 weights, so two of their groups share one 8-bit grid:
for Q6_K and Q3_K the half with the larger scale stays exact and a weight of the other half moves by at most
1/7 (Q6_K) or 1/60 (Q3_K) of the larger half's step (twice that for the lowest code when the scales are opposite); for
Q2_K the grid spans both halves, and a weight moves by at most 1/500 of that span.

Scales are float16 where the file's are and the bias fits too, else float32.
Source: ggml's block layouts; MLX packs codes little-endian, lowest bits first, for every bit width.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FORMATS", "BlockFormat", "Packed", "packed_nbytes", "to_float32", "to_quantized", "widen"]

Bytes = NDArray[Any]  # always uint8; numpy types its bit operations too narrowly to say so
Floats = NDArray[np.floating[Any]]
_CHUNK_BYTES = 1 << 18  # input bytes a step: with its temporaries this stays in a 1-2 MB L2 cache
_THREADED_BYTES = 8 << 20
_IQ4_LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.int8)


_E2M1_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=np.int8)


@dataclass(frozen=True)
class Packed:
    """Codes and scales of N groups: `weight` (N, group * bits / 8) bytes, `scales` and `biases` (N,)."""

    weight: Bytes
    scales: NDArray[Any]
    biases: NDArray[Any] | None
    bits: int
    group_size: int
    mode: str


# A decoder maps blocks (n, block bytes) to codes (n, groups, group), scales (n, groups) and biases (n, groups).
Decoded = tuple[Bytes, Floats, Floats]


def _half(blocks: Bytes, start: int) -> Floats:
    """The float16 at byte `start` of every block, shape (n, 1)."""
    if blocks.shape[1] % 2 or start % 2:
        return np.ascontiguousarray(blocks[:, start : start + 2]).view(np.float16)
    return blocks.view(np.float16)[:, start // 2 : start // 2 + 1]


def _columns(blocks: Bytes, start: int, count: int) -> Bytes:
    """Bytes [start, start + count) of every block, contiguous; copied in the widest words that fit."""
    width = math.gcd(blocks.shape[1], start, count, 8)
    words = blocks.view(f"<u{width}")[:, start // width : (start + count) // width]
    return np.ascontiguousarray(words).view(np.uint8)


def _nibbles(qs: Bytes) -> Bytes:
    """(..., 16) bytes -> (..., 32) codes: all low halves, then all high halves."""
    return np.concatenate([qs & 0x0F, qs >> 4], axis=-1)


def _fifth_bits(blocks: Bytes, start: int) -> Bytes:
    """The 32 extra bits of Q5_0/Q5_1, moved to the value 16."""
    return np.unpackbits(blocks[:, start : start + 4], axis=1, bitorder="little") << 4


def _q4_0(b: Bytes) -> Decoded:
    d = _half(b, 0)
    return _nibbles(b[:, 2:18])[:, None], d, d.astype(np.float32) * -8


def _q4_1(b: Bytes) -> Decoded:
    return _nibbles(b[:, 4:20])[:, None], _half(b, 0), _half(b, 2)


def _q5_0(b: Bytes) -> Decoded:
    d = _half(b, 0)
    return (_nibbles(b[:, 6:22]) | _fifth_bits(b, 2))[:, None], d, d.astype(np.float32) * -16


def _q5_1(b: Bytes) -> Decoded:
    return (_nibbles(b[:, 8:24]) | _fifth_bits(b, 4))[:, None], _half(b, 0), _half(b, 2)


def _q8_0(b: Bytes) -> Decoded:
    d = _half(b, 0)
    return (b[:, 2:34] ^ 0x80)[:, None], d, d.astype(np.float32) * -128


def _iq4_nl(b: Bytes) -> Decoded:
    d = _half(b, 0)
    levels = _IQ4_LEVELS.view(np.uint8) ^ 0x80
    return levels[_nibbles(b[:, 2:18])][:, None], d, d.astype(np.float32) * -128


def _iq4_xs(b: Bytes) -> Decoded:
    high = np.ascontiguousarray(b[:, 2:4]).view(np.uint16) >> np.arange(0, 16, 2, dtype=np.uint16)
    low = np.stack([b[:, 4:8] & 0x0F, b[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    steps = (low | (high & 3).astype(np.uint8) << 4).astype(np.float32) - 32
    scales = _half(b, 0).astype(np.float32) * steps
    levels = _IQ4_LEVELS.view(np.uint8) ^ 0x80
    return levels[_nibbles(b[:, 8:136].reshape(-1, 8, 16))], scales, scales * -128


def _k_scales(b: Bytes) -> tuple[Floats, Floats]:
    """Scales and biases of the eight groups of a Q4_K or Q5_K block: 6-bit integers packed in bytes 4 to 15."""
    low, middle, rest = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scale = np.concatenate([low & 0x3F, (rest & 0x0F) | (low >> 6) << 4], axis=1)
    minimum = np.concatenate([middle & 0x3F, (rest >> 4) | (middle >> 6) << 4], axis=1)
    return _half(b, 0).astype(np.float32) * scale, _half(b, 2).astype(np.float32) * -minimum.astype(np.float32)


def _q4_k(b: Bytes) -> Decoded:
    qs = b[:, 16:144].reshape(-1, 4, 1, 32)
    codes = np.concatenate([qs & 0x0F, qs >> 4], axis=2).reshape(-1, 8, 32)
    return codes, *_k_scales(b)


def _q5_k(b: Bytes) -> Decoded:
    qs = b[:, 48:176].reshape(-1, 4, 1, 32)
    codes = np.concatenate([qs & 0x0F, qs >> 4], axis=2).reshape(-1, 8, 32)
    for group in range(8):
        codes[:, group] |= (b[:, 16:48] >> group & 1) << 4
    return codes, *_k_scales(b)


def _q6_k(b: Bytes) -> Decoded:
    codes = np.empty((len(b), 2, 4, 32), np.uint8)
    for half in range(2):
        low, high = b[:, 64 * half : 64 * half + 64], b[:, 128 + 32 * half : 160 + 32 * half]
        codes[:, half, 0] = low[:, :32] & 0x0F | (high & 0x03) << 4
        codes[:, half, 1] = low[:, 32:] & 0x0F | (high & 0x0C) << 2
        codes[:, half, 2] = low[:, :32] >> 4 | (high & 0x30)
        codes[:, half, 3] = low[:, 32:] >> 4 | (high & 0xC0) >> 2
    scales = _half(b, 208).astype(np.float32) * np.ascontiguousarray(b[:, 192:208]).view(np.int8)
    return codes.reshape(-1, 16, 16), scales, scales * -32


def _q3_k(b: Bytes) -> Decoded:
    codes = np.empty((len(b), 2, 4, 32), np.uint8)
    for half in range(2):
        for step in range(4):
            low = b[:, 32 + 32 * half : 64 + 32 * half] >> 2 * step & 3
            codes[:, half, step] = low | (b[:, :32] >> 4 * half + step & 1) << 2
    low = np.concatenate([b[:, 96:104] & 0x0F, b[:, 96:104] >> 4], axis=1)
    high = np.concatenate([b[:, 104:108] >> shift & 3 for shift in (0, 2, 4, 6)], axis=1)
    scales = _half(b, 108).astype(np.float32) * ((low | high << 4).astype(np.float32) - 32)
    return codes.reshape(-1, 16, 16), scales, scales * -4


def _q2_k(b: Bytes) -> Decoded:
    codes = np.empty((len(b), 2, 4, 32), np.uint8)
    for half in range(2):
        for step in range(4):
            codes[:, half, step] = b[:, 16 + 32 * half : 48 + 32 * half] >> 2 * step & 3
    scales = _half(b, 80).astype(np.float32) * (b[:, :16] & 0x0F)
    biases = _half(b, 82).astype(np.float32) * -(b[:, :16] >> 4).astype(np.float32)
    return codes.reshape(-1, 16, 16), scales, biases


def _mxfp4(b: Bytes) -> Decoded:
    exponents = b[:, :1].astype(np.int32) - 128  # the levels are doubled, so the exponent loses one
    scales = np.ldexp(np.float32(1), exponents)
    return _E2M1_DOUBLED[_nibbles(b[:, 1:17])][:, None].view(np.uint8), scales, np.zeros_like(scales)


def _nvfp4(b: Bytes) -> Decoded:
    raw = b[:, :4] & 0x7F
    exponent, mantissa = (raw >> 3).astype(np.int32), (raw & 7).astype(np.float32)
    scales = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(1 + mantissa / 8, exponent - 7)) / 2
    qs = b[:, 4:36].reshape(-1, 4, 8)
    codes = np.concatenate([qs & 0x0F, qs >> 4], axis=2)
    return _E2M1_DOUBLED[codes].view(np.uint8), scales.astype(np.float32), np.zeros_like(scales, dtype=np.float32)


def _pack4(words: NDArray[Any], out: Bytes) -> None:
    """Codes of 4 bits, one a byte, eight a word -> two a byte in `out` (same order)."""
    words |= words >> 4
    np.copyto(out, words.view(np.uint16), casting="unsafe")


# Neighbours move together: 5 + 5 bits, then 10 + 10, then 20 + 20.
_PACK5_STEPS = tuple(
    (np.uint64(low), np.uint64(shift), np.uint64(high))
    for low, shift, high in (
        (0x001F001F001F001F, 3, 0x03E003E003E003E0),
        (0x000003FF000003FF, 6, 0x000FFC00000FFC00),
        (0x00000000000FFFFF, 12, 0x000000FFFFF00000),
    )
)


def _pack5(words: NDArray[Any], out: Bytes) -> None:
    """Codes of 5 bits, one a byte, eight a word -> five bytes for eight codes."""
    for low, shift, high in _PACK5_STEPS:
        words = words & low | words >> shift & high
    out.reshape(*words.shape, 5)[...] = words.view(np.uint8).reshape(*words.shape, 8)[..., :5]


def _store_codes(codes: Bytes, bits: int, out: Bytes) -> None:
    """Pack (n, groups, 32) codes into (n, groups, 4 * bits) bytes."""
    if bits == 8:
        out[...] = codes
    else:
        words = np.ascontiguousarray(codes).view(np.uint64)
        (_pack4 if bits == 4 else _pack5)(words, out)


_LOW = np.uint64(0x0F0F0F0F0F0F0F0F)


def _store_nibbles(qs: Bytes, out: Bytes) -> None:
    """The 4-bit types without unpacking: (n, g, m) bytes -> packed low halves, then high halves, (n, g, 2, m / 2)."""
    words = np.ascontiguousarray(qs).view(np.uint64)
    _pack4(words & _LOW, out[:, :, 0])
    _pack4(words >> 4 & _LOW, out[:, :, 1])


def _merge_halves(decoded: Decoded, levels: int, half: int) -> Decoded:
    """Two groups of 16 on one 8-bit grid (see the module docstring). `half` is the code that stands for zero."""
    codes, scales, _ = decoded
    step = 256 // levels  # grid points per step of the larger half
    pairs = scales.reshape(len(codes), 8, 2)
    largest = np.take_along_axis(pairs, np.abs(pairs).argmax(2, keepdims=True), 2)
    safe = np.where(largest == 0, 1, largest)
    factor = np.nan_to_num(np.rint(pairs / safe * (step * 256)), posinf=0, neginf=0).astype(np.int64)
    grid = _grid(codes, factor, (128 << 8) + 128 - half * factor)
    # Opposite scales would put the lowest code of the negative half on 256: it takes 255 instead.
    over = (128 << 8) + 128 - half * factor > 0xFFFF
    if over.any():
        grid.reshape(codes.shape)[over.reshape(len(codes), 16, 1) & (codes == 0)] = 255
    return grid, largest[..., 0] / step, largest[..., 0] * (-128 / step)


def _merge_ranges(decoded: Decoded) -> Decoded:
    """Q2_K: two groups of 16 with their own offsets on one 8-bit grid from the lowest to the highest level."""
    codes, scales, biases = decoded
    shape = (len(codes), 8, 2)
    tops = scales * 3 + biases
    low = np.minimum(tops, biases).reshape(shape).min(2, keepdims=True)
    high = np.maximum(tops, biases).reshape(shape).max(2, keepdims=True)
    step = (high - low) / np.float32(255)
    safe = np.where(step > 0, step, 1)
    factor = np.nan_to_num(np.rint(scales.reshape(shape) / safe * 256), posinf=0, neginf=0).astype(np.int64)
    offset = np.nan_to_num(np.rint((biases.reshape(shape) - low) / safe * 256), posinf=0, neginf=0).astype(np.int64)
    # The top level lands on 255.5 * 256: both roundings together move it by at most 2, so it stays below 65,536.
    return _grid(codes, factor, offset + 128), step[..., 0], low[..., 0]


def _grid(codes: Bytes, factor: NDArray[np.int64], offset: NDArray[np.int64]) -> Bytes:
    """(codes * factor + offset) >> 8 in 16-bit arithmetic: the true value lies in 0..65535, so wrapping is harmless."""
    shape = (len(codes), 16, 1)
    wide = codes.astype(np.uint16)
    wide *= (factor & 0xFFFF).astype(np.uint16).reshape(shape)
    wide += (offset & 0xFFFF).astype(np.uint16).reshape(shape)
    return (wide >> 8).astype(np.uint8).reshape(len(codes), 8, 32)


@dataclass(frozen=True)
class BlockFormat:
    """How one storage type is decoded and which MLX layout it becomes."""

    decode: Callable[[Bytes], Decoded]
    bits: int
    groups: int  # groups of the MLX layout in one block
    nibbles: tuple[int, int, int] | None = None  # (first byte, sub-blocks, bytes each) of plainly packed 4-bit codes
    scales: Callable[[Bytes], tuple[Floats, Floats]] | None = None  # scales without decoding the codes
    merge: Callable[[Decoded], Decoded] | None = None
    mode: str = "affine"
    group_size: int = 32
    half_scales: bool = True


def _scales_q4_0(b: Bytes) -> tuple[Floats, Floats]:
    d = _half(b, 0)
    return d, d.astype(np.float32) * -8


def _scales_q4_1(b: Bytes) -> tuple[Floats, Floats]:
    return _half(b, 0), _half(b, 2)


def _merge_q6(decoded: Decoded) -> Decoded:
    return _merge_halves(decoded, levels=64, half=32)


def _merge_q3(decoded: Decoded) -> Decoded:
    return _merge_halves(decoded, levels=8, half=4)


FORMATS: MappingProxyType[str, BlockFormat] = MappingProxyType(
    {
        "Q4_0": BlockFormat(_q4_0, 4, 1, nibbles=(2, 1, 16), scales=_scales_q4_0),
        "Q4_1": BlockFormat(_q4_1, 4, 1, nibbles=(4, 1, 16), scales=_scales_q4_1),
        "Q5_0": BlockFormat(_q5_0, 5, 1),
        "Q5_1": BlockFormat(_q5_1, 5, 1),
        "Q8_0": BlockFormat(_q8_0, 8, 1),
        "IQ4_NL": BlockFormat(_iq4_nl, 8, 1),
        "IQ4_XS": BlockFormat(_iq4_xs, 8, 8, half_scales=False),
        "Q4_K": BlockFormat(_q4_k, 4, 8, nibbles=(16, 4, 32), scales=_k_scales, half_scales=False),
        "Q5_K": BlockFormat(_q5_k, 5, 8, half_scales=False),
        "Q6_K": BlockFormat(_q6_k, 8, 8, merge=_merge_q6, half_scales=False),
        "Q3_K": BlockFormat(_q3_k, 8, 8, merge=_merge_q3, half_scales=False),
        "Q2_K": BlockFormat(_q2_k, 8, 8, merge=_merge_ranges, half_scales=False),
        "MXFP4": BlockFormat(_mxfp4, 4, 1, nibbles=(1, 1, 16), mode="mxfp4"),
        "NVFP4": BlockFormat(_nvfp4, 4, 4, nibbles=(4, 4, 8), mode="nvfp4", group_size=16),
    }
)


def _chunks(blocks: Bytes, work: Callable[[int, int], None]) -> None:
    """Run `work(start, stop)` over all blocks; numpy lets go of the interpreter lock inside its loops."""
    step = max(1, _CHUNK_BYTES // blocks.shape[1])
    starts = range(0, len(blocks), step)

    def run(start: int) -> None:
        with np.errstate(all="ignore"):  # a file may hold NaN or infinite scales: they are its business
            work(start, min(start + step, len(blocks)))

    # Starting threads costs about 0.5 ms, a small tensor less than that in all.
    threads = min(4, os.cpu_count() or 1, len(starts)) if blocks.nbytes > _THREADED_BYTES else 1
    if threads < 2:
        for start in starts:
            run(start)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, starts))


def _store_chunk(kind: BlockFormat, b: Bytes, weight: Bytes, scales: NDArray[Any], biases: NDArray[Any]) -> None:
    """Fill the outputs of one chunk: weight (n, groups, bytes), scales and biases (n, groups)."""
    if kind.nibbles:
        first, count, nbytes = kind.nibbles
        qs = _columns(b, first, count * nbytes).reshape(len(b), count, nbytes)
        _store_nibbles(qs, weight.reshape(len(b), count, 2, nbytes // 2))
        if kind.scales:
            scales[...], biases[...] = kind.scales(b)
        else:
            scales[...] = b[:, : kind.groups]
        return
    decoded = kind.decode(b)
    codes, scales[...], biases[...] = kind.merge(decoded) if kind.merge else decoded
    _store_codes(codes, kind.bits, weight)


def packed_nbytes(type_name: str, raw_nbytes: int, nbytes: int) -> int:
    """Bytes of the packed codes that `to_quantized` makes of `raw_nbytes` bytes of blocks."""
    kind = FORMATS[type_name]
    return raw_nbytes // nbytes * kind.groups * kind.group_size * kind.bits // 8


def to_quantized(raw: Bytes, type_name: str, nbytes: int, scratch: Bytes | None = None) -> Packed:
    """Convert raw blocks of `nbytes` each to MLX's layout; `type_name` must be in FORMATS.

    With `scratch` (at least `packed_nbytes` bytes) the codes are written there: touching fresh pages costs more than
    the conversion, so a loader passes the same buffer for every tensor and copies the result out. Affine scales and
    biases are float16 if that is exact, else float32; mxfp4 and nvfp4 scales are uint8.
    """
    kind = FORMATS[type_name]
    blocks = raw.reshape(-1, nbytes)
    groups = (len(blocks), kind.groups)
    affine = kind.mode == "affine"
    weight_shape = (*groups, kind.group_size * kind.bits // 8)
    if scratch is None:
        weight = np.empty(weight_shape, np.uint8)
    else:
        weight = scratch[: packed_nbytes(type_name, raw.size, nbytes)].reshape(weight_shape)
    scales = np.empty(groups, (np.float16 if kind.half_scales else np.float32) if affine else np.uint8)
    biases = np.empty(groups, np.float32)

    def work(start: int, stop: int) -> None:
        _store_chunk(kind, blocks[start:stop], weight[start:stop], scales[start:stop], biases[start:stop])

    _chunks(blocks, work)
    weight = weight.reshape(-1, weight.shape[-1])
    if not affine:
        return Packed(weight, scales.reshape(-1), None, kind.bits, kind.group_size, kind.mode)
    if kind.half_scales:
        with np.errstate(over="ignore"):
            halves = biases.astype(np.float16)
        if np.array_equal(halves, biases):  # -8d, -16d and -128d are exact unless they overflow
            biases = halves
        else:
            scales = scales.astype(np.float32)
    return Packed(weight, scales.reshape(-1), biases.reshape(-1), kind.bits, kind.group_size, kind.mode)


def to_float32(raw: Bytes, type_name: str, nbytes: int) -> NDArray[np.float32]:
    """The weights themselves, flat, exactly as the format defines them (no merging of groups)."""
    kind = FORMATS[type_name]
    blocks = raw.reshape(-1, nbytes)
    signed = kind.mode != "affine"
    out = np.empty((len(blocks), kind.groups * kind.group_size), np.float32)

    def work(start: int, stop: int) -> None:
        codes, scales, biases = kind.decode(blocks[start:stop])
        values = (codes.view(np.int8) if signed else codes).astype(np.float32)
        values *= scales.astype(np.float32)[..., None]
        values += biases.astype(np.float32)[..., None]
        out[start:stop] = values.reshape(stop - start, -1)

    _chunks(blocks, work)
    return out.reshape(-1)


def widen(packed: Packed) -> Packed:
    """The same affine weights with 8-bit codes and float32 scales, so that tensors of different types can be joined."""
    weight = packed.weight
    if packed.bits == 4:
        weight = np.stack([weight & 0x0F, weight >> 4], axis=2).reshape(len(weight), -1)
    elif packed.bits == 5:
        bits = np.unpackbits(weight, axis=1, bitorder="little").reshape(len(weight), -1, 5)
        weight = (bits << np.arange(5, dtype=np.uint8)).sum(2, dtype=np.uint8)
    biases = None if packed.biases is None else packed.biases.astype(np.float32)
    return Packed(weight, packed.scales.astype(np.float32), biases, 8, packed.group_size, packed.mode)
