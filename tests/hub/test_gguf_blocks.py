"""Block formats against scalar references written from the format descriptions, one weight at a time."""

import struct
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from mlx_lm.hub import gguf, gguf_blocks

SIZES = {kind.name: kind for kind in gguf.GGML_TYPES.values()}
IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
F32 = np.float32


def half(block: bytes, at: int) -> np.float32:
    return F32(struct.unpack_from("<e", block, at)[0])


def nibble(block: bytes, start: int, index: int) -> int:
    """Element `index` of 32 whose low halves come first."""
    byte = block[start + index % 16]
    return byte & 15 if index < 16 else byte >> 4


def legacy(block: bytes, index: int, *, quants: int, fifth: int | None, zero: int | None) -> np.float32:
    code = nibble(block, quants, index)
    if fifth is not None:
        code |= (int.from_bytes(block[fifth : fifth + 4], "little") >> index & 1) << 4
    minimum = half(block, 2) if zero is None else F32(-zero) * half(block, 0)
    return half(block, 0) * F32(code) + minimum


def k_group(block: bytes, group: int) -> tuple[np.float32, np.float32]:
    packed = block[4:16]
    if group < 4:
        scale, minimum = packed[group] & 63, packed[group + 4] & 63
    else:
        scale = packed[group + 4] & 15 | packed[group - 4] >> 6 << 4
        minimum = packed[group + 4] >> 4 | packed[group] >> 6 << 4
    return half(block, 0) * F32(scale), half(block, 2) * F32(minimum)


def q45_k(block: bytes, index: int, *, quants: int, high: int | None) -> np.float32:
    group, lane = divmod(index, 32)
    byte = block[quants + 32 * (group // 2) + lane]
    code = byte >> 4 if group % 2 else byte & 15
    if high is not None:
        code |= (block[high + lane] >> group & 1) << 4
    scale, minimum = k_group(block, group)
    return scale * F32(code) - minimum


def q6_k(block: bytes, index: int) -> np.float32:
    part, rest = divmod(index, 128)
    quarter, lane = divmod(rest, 32)
    byte = block[64 * part + 32 * (quarter % 2) + lane]
    code = (byte >> 4 if quarter > 1 else byte & 15) | (block[128 + 32 * part + lane] >> 2 * quarter & 3) << 4
    scale = struct.unpack_from("b", block, 192 + index // 16)[0]
    return half(block, 208) * F32(scale) * F32(code - 32)


def q3_k(block: bytes, index: int) -> np.float32:
    part, rest = divmod(index, 128)
    step, lane = divmod(rest, 32)
    code = (block[32 + 32 * part + lane] >> 2 * step & 3) - (0 if block[lane] >> 4 * part + step & 1 else 4)
    group = index // 16
    low = block[96 + group % 8] >> (4 if group > 7 else 0) & 15
    scale = (low | (block[104 + group % 4] >> 2 * (group // 4) & 3) << 4) - 32
    return half(block, 108) * F32(scale) * F32(code)


def q2_k(block: bytes, index: int) -> np.float32:
    part, rest = divmod(index, 128)
    step, lane = divmod(rest, 32)
    code, packed = block[16 + 32 * part + lane] >> 2 * step & 3, block[index // 16]
    return half(block, 80) * F32(packed & 15) * F32(code) - half(block, 82) * F32(packed >> 4)


def iq4_xs(block: bytes, index: int) -> np.float32:
    group, lane = divmod(index, 32)
    low = block[4 + group // 2] >> 4 * (group % 2) & 15
    high = int.from_bytes(block[2:4], "little") >> 2 * group & 3
    return half(block, 0) * F32((low | high << 4) - 32) * F32(IQ4[nibble(block, 8 + 16 * group, lane)])


def nvfp4(block: bytes, index: int) -> np.float32:
    group, lane = divmod(index, 16)
    byte = block[4 + 8 * group + lane % 8]
    raw = block[group] & 127
    exponent, mantissa = raw >> 3, raw & 7
    scale = mantissa * 2.0**-9 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return F32(scale * E2M1[byte >> 4 if lane > 7 else byte & 15])


REFERENCE: dict[str, Callable[[bytes, int], np.float32]] = {
    "Q4_0": lambda b, i: legacy(b, i, quants=2, fifth=None, zero=8),
    "Q4_1": lambda b, i: legacy(b, i, quants=4, fifth=None, zero=None),
    "Q5_0": lambda b, i: legacy(b, i, quants=6, fifth=2, zero=16),
    "Q5_1": lambda b, i: legacy(b, i, quants=8, fifth=4, zero=None),
    "Q8_0": lambda b, i: half(b, 0) * F32(struct.unpack_from("b", b, 2 + i)[0]),
    "IQ4_NL": lambda b, i: half(b, 0) * F32(IQ4[nibble(b, 2, i)]),
    "IQ4_XS": iq4_xs,
    "Q4_K": lambda b, i: q45_k(b, i, quants=16, high=None),
    "Q5_K": lambda b, i: q45_k(b, i, quants=48, high=16),
    "Q6_K": q6_k,
    "Q3_K": q3_k,
    "Q2_K": q2_k,
    "MXFP4": lambda b, i: F32(E2M1[nibble(b, 1, i)] * 2.0 ** (b[0] - 127)),
    "NVFP4": nvfp4,
}
HALVES = {
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
}
MERGED = ("Q6_K", "Q3_K", "Q2_K")


def random_blocks(name: str, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    kind = SIZES[name]
    raw = rng.integers(0, 256, (count, kind.nbytes), dtype=np.uint8)
    if name == "MXFP4":
        raw[:, 0] = rng.integers(100, 140, count)
    elif name == "NVFP4":
        raw[:, :4] = rng.integers(0, 120, (count, 4))
    else:
        for at in HALVES.get(name, (0,)):
            raw[:, at : at + 2] = rng.normal(0, 0.02, (count, 1)).astype(np.float16).view(np.uint8)
    return raw


def through_mlx(packed: gguf_blocks.Packed, rows: int) -> np.ndarray:
    """MLX's own dequantization of the packed weights, in float32."""
    weight = mx.array(packed.weight.reshape(rows, -1).view(np.uint32))
    scales = mx.array(packed.scales.reshape(rows, -1))
    biases = None
    if packed.biases is not None:
        scales, biases = scales.astype(mx.float32), mx.array(packed.biases.reshape(rows, -1)).astype(mx.float32)
    group_size, bits, mode = packed.group_size, packed.bits, packed.mode
    return np.array(mx.dequantize(weight, scales, biases, group_size, bits, mode, dtype=mx.float32))


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_float32_equals_the_scalar_reference(name: str):
    raw = random_blocks(name, 6)
    kind = SIZES[name]
    expected = np.array([[REFERENCE[name](block.tobytes(), i) for i in range(kind.block)] for block in raw])
    got = gguf_blocks.to_float32(raw.reshape(-1), name, kind.nbytes).reshape(expected.shape)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", sorted(set(REFERENCE) - set(MERGED)))
def test_the_mlx_image_is_exact(name: str):
    kind = SIZES[name]
    raw = random_blocks(name, 9 * 4096 // kind.block, seed=1)
    packed = gguf_blocks.to_quantized(raw.reshape(-1), name, kind.nbytes)
    expected = gguf_blocks.to_float32(raw.reshape(-1), name, kind.nbytes)
    np.testing.assert_array_equal(through_mlx(packed, 9).reshape(-1), expected)


@pytest.mark.parametrize("name", sorted(MERGED))
def test_merged_groups_stay_within_the_documented_error(name: str):
    kind = SIZES[name]
    raw = random_blocks(name, 512, seed=2)
    packed = gguf_blocks.to_quantized(raw.reshape(-1), name, kind.nbytes)
    assert (packed.bits, packed.group_size) == (8, 32)
    expected = gguf_blocks.to_float32(raw.reshape(-1), name, kind.nbytes).reshape(-1, 32)
    got = through_mlx(packed, 8).reshape(-1, 32)
    if name == "Q2_K":
        bound = 255 * packed.scales[:, None] / 500  # the span of the grid
    else:
        levels, share = (4, 1 / 7) if name == "Q6_K" else (32, 1 / 60)
        bound = np.abs(packed.scales)[:, None] * levels * share
        assert (np.abs(got - expected) > bound).mean() < 0.01
        bound = bound * 2
    assert (np.abs(got - expected) <= bound).all()


@pytest.mark.parametrize("name", ["Q6_K", "Q3_K"])
def test_equal_scales_merge_without_error(name: str):
    kind = SIZES[name]
    raw = random_blocks(name, 64, seed=3)
    if name == "Q6_K":
        raw[:, 193:208:2] = raw[:, 192:208:2]
    else:
        raw[:, 96:108] = 0x55
    packed = gguf_blocks.to_quantized(raw.reshape(-1), name, kind.nbytes)
    expected = gguf_blocks.to_float32(raw.reshape(-1), name, kind.nbytes)
    np.testing.assert_array_equal(through_mlx(packed, 4).reshape(-1), expected)


def test_scales_are_half_only_where_the_bias_fits():
    kind = SIZES["Q8_0"]
    raw = random_blocks("Q8_0", 32)
    assert gguf_blocks.to_quantized(raw.reshape(-1), "Q8_0", kind.nbytes).scales.dtype == np.float16
    raw[5, :2] = np.array([600], np.float16).view(np.uint8)  # bias -76,800 overflows float16
    packed = gguf_blocks.to_quantized(raw.reshape(-1), "Q8_0", kind.nbytes)
    assert packed.scales.dtype == np.float32
    expected = gguf_blocks.to_float32(raw.reshape(-1), "Q8_0", kind.nbytes)
    np.testing.assert_array_equal(through_mlx(packed, 4).reshape(-1), expected)


@pytest.mark.parametrize("name", ["Q4_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K"])
def test_widening_keeps_every_weight(name: str):
    kind = SIZES[name]
    raw = random_blocks(name, 64, seed=4)
    wide = gguf_blocks.widen(gguf_blocks.to_quantized(raw.reshape(-1), name, kind.nbytes))
    assert wide.bits == 8
    expected = gguf_blocks.to_float32(raw.reshape(-1), name, kind.nbytes)
    np.testing.assert_array_equal(through_mlx(wide, 4).reshape(-1), expected)


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_arbitrary_bytes_never_raise(name: str):
    kind = SIZES[name]
    raw = np.random.default_rng(5).integers(0, 256, 64 * kind.nbytes, dtype=np.uint8)
    gguf_blocks.to_quantized(raw, name, kind.nbytes)
    gguf_blocks.to_float32(raw, name, kind.nbytes)
