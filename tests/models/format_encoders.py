"""Writes tiny checkpoints in the layouts that other quantizers publish, in plain numpy.

Every encoder takes a random generator and a weight's shape (N, K), and gives (tensors by suffix, the float32 weight
that they mean). Nothing here shares code with the package. Tensors are (safetensors dtype, array).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from references import _E4M3

Tensors = dict[str, tuple[str, np.ndarray]]
Encoded = tuple[Tensors, np.ndarray]

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
_BELOW = [-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0]
_ABOVE = [0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0]
NF4 = np.array([*_BELOW, *_ABOVE], np.float32)
_NP = {"F32": "<f4", "F16": "<f2", "I32": "<i4", "I64": "<i8", "I8": "i1", "U8": "u1", "F8_E4M3": "u1", "F8_E8M0": "u1"}


def write_safetensors(path: Path, tensors: Tensors) -> None:
    header: dict[str, Any] = {}
    blobs, at = [], 0
    for name, (dtype, array) in tensors.items():
        raw = np.ascontiguousarray(array).astype(_NP[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + len(raw)]}
        blobs.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def _words(codes: np.ndarray, bits: int) -> np.ndarray:
    """(rows, n) -> (rows, ceil(n / per word)): each word holds whole codes, lowest first."""
    per = 32 // bits
    rows, n = codes.shape
    words = np.zeros((rows, -(-n // per)), np.uint32)
    for j in range(n):
        words[:, j // per] |= codes[:, j].astype(np.uint32) << np.uint32(bits * (j % per))
    return words.view(np.int32)


def _three(codes: np.ndarray) -> np.ndarray:
    """GPTQ's 3-bit rows: 32 codes in three words, two of them cut in two. (n, columns) -> (n*3/32, columns)."""
    words = np.zeros((codes.shape[0] * 3 // 32, codes.shape[1]), np.uint32)
    codes = codes.astype(np.uint32)
    for block in range(codes.shape[0] // 32):
        c, w = codes[32 * block :], words[3 * block :]
        for j in range(10):
            w[0] |= c[j] << np.uint32(3 * j)
            w[1] |= c[11 + j] << np.uint32(3 * j + 1)
            w[2] |= c[22 + j] << np.uint32(3 * j + 2)
        w[0] |= (c[10] << np.uint32(30)) & np.uint32(0xFFFFFFFF)
        w[1] |= (c[10] >> np.uint32(2)) & np.uint32(1)
        w[1] |= (c[21] & np.uint32(1)) << np.uint32(31)
        w[2] |= (c[21] >> np.uint32(1)) & np.uint32(3)
    return words.view(np.int32)


def _scales(rng: np.random.Generator, *shape: int, half: bool = True) -> np.ndarray:
    values = rng.uniform(0.01, 0.05, shape).astype(np.float32)
    return values.astype(np.float16) if half else values


def gptq(rng, n, k, *, bits=4, group=32, v2=False, sym=False, order=False, idx=True) -> Encoded:
    q = rng.integers(0, 2**bits, (k, n))
    zeros = (
        rng.integers(1 - v2, 2**bits + 1 - v2, (k // group, n))
        if not sym
        else np.full((k // group, n), 2 ** (bits - 1))
    )
    scales = _scales(rng, k // group, n)
    g = np.arange(k) // group
    if order:
        g = rng.permutation(g)
    stored = zeros if v2 else zeros - 1
    if bits == 3:
        qweight, qzeros = _three(q), _three(stored.T).T
    else:
        qweight, qzeros = _words(q.T, bits).T, _words(stored, bits)
    w = (scales[g].astype(np.float32) * (q - zeros[g])).T
    tensors = {"qweight": ("I32", qweight), "qzeros": ("I32", qzeros), "scales": ("F16", scales)}
    return tensors | ({"g_idx": ("I32", g)} if idx else {}), w.astype(np.float32)


def awq(rng, n, k, *, group=32) -> Encoded:
    order = (0, 2, 4, 6, 1, 3, 5, 7)

    def interleave(codes: np.ndarray) -> np.ndarray:
        words = np.zeros((codes.shape[0], n // 8), np.uint32)
        for i, column in enumerate(order):
            words |= codes[:, column::8].astype(np.uint32) << np.uint32(4 * i)
        return words.view(np.int32)

    q, zeros = rng.integers(0, 16, (k, n)), rng.integers(0, 16, (k // group, n))
    scales = _scales(rng, k // group, n)
    w = np.repeat(scales.astype(np.float32), group, 0) * (q - np.repeat(zeros, group, 0))
    tensors = {"qweight": interleave(q), "qzeros": interleave(zeros)}
    return {k_: ("I32", v) for k_, v in tensors.items()} | {"scales": ("F16", scales)}, w.T.astype(np.float32)


def ct_pack(rng, n, k, *, bits=4, group=32, symmetric=True, order=False) -> Encoded:
    half = 2 ** (bits - 1)
    group = group or k
    q = rng.integers(-half, half, (n, k))
    zeros = np.zeros((n, k // group), int) if symmetric else rng.integers(-half, half, (n, k // group))
    scales = _scales(rng, n, k // group)
    g = rng.permutation(np.arange(k) // group) if order else np.arange(k) // group
    tensors = {
        "weight_packed": ("I32", _words(q + half, bits)),
        "weight_scale": ("F16", scales),
        "weight_shape": ("I64", np.array([n, k])),
    }
    if not symmetric:
        tensors["weight_zero_point"] = ("I32", _words((zeros + half).T, bits).T)
    if order:
        tensors["weight_g_idx"] = ("I32", g)
    return tensors, (scales.astype(np.float32)[:, g] * (q - zeros[:, g])).astype(np.float32)


def ct_int8(rng, n, k, *, channel=True) -> Encoded:
    q = rng.integers(-128, 128, (n, k))
    scales = _scales(rng, *((n, 1) if channel else (1,)), half=False) / 16
    tensors = {"weight": ("I8", q), "weight_scale": ("F32", scales)}
    return tensors, (q * scales).astype(np.float32)


def _codes8(rng, n, k) -> np.ndarray:
    codes = rng.integers(0, 256, (n, k))
    codes[(codes & 127) >= 0x68] ^= 0x40  # no NaN, and small enough for tame logits
    return codes.astype(np.uint8)


def float8(rng, n, k, *, grid="block", power=False, suffix="weight_scale_inv", block=(128, 128)) -> Encoded:
    """grid: block, row, row1 (one axis), tensor or scalar."""
    codes = _codes8(rng, n, k)
    shape = {"block": (-(-n // block[0]), -(-k // block[1])), "row": (n, 1), "row1": (n,), "tensor": (1,), "scalar": ()}
    scales = np.asarray(_scales(rng, *shape[grid], half=False) / 16)
    if power:
        scales = np.exp2(np.round(np.log2(scales))).astype(np.float32)
    full = scales
    if grid == "block":
        full = np.repeat(np.repeat(scales, block[0], 0), block[1], 1)[:n, :k]
    if grid == "row1":
        full = scales[:, None]
    tensors = {"weight": ("F8_E4M3", codes), suffix: ("F32", scales)}
    return tensors, (_E4M3[codes] * full).astype(np.float32)


def mxfp8(rng, n, k, *, suffix="weight_scale_inv", height=32) -> Encoded:
    codes = _codes8(rng, n, k)
    exponents = rng.integers(118, 122, (-(-n // height), k // 32))
    scales = np.exp2(exponents - 127.0)
    w = _E4M3[codes] * np.repeat(np.repeat(scales, height, 0)[:n], 32, 1)
    return {"weight": ("F8_E4M3", codes), suffix: ("F8_E8M0", exponents)}, w.astype(np.float32)


def _pairs(codes: np.ndarray) -> np.ndarray:
    return (codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8)


def mxfp4(rng, n, k) -> Encoded:
    codes, exponents = rng.integers(0, 16, (n, k)), rng.integers(120, 124, (n, k // 32))
    w = E2M1[codes] * np.repeat(np.exp2(exponents - 127.0), 32, 1)
    return {"weight_packed": ("U8", _pairs(codes)), "weight_scale": ("U8", exponents)}, w.astype(np.float32)


def nvfp4(rng, n, k, *, modelopt=False, factor=None) -> Encoded:
    codes, scales = rng.integers(0, 16, (n, k)), rng.integers(0x20, 0x40, (n, k // 16)).astype(np.uint8)
    if factor is not None:  # the scales alone must be small then
        scales -= 0x18
    factor = np.float32(rng.uniform(0.02, 0.04) if factor is None else factor)
    w = E2M1[codes] * np.repeat(_E4M3[scales] * factor, 16, 1)
    names = ("weight", "weight_scale_2") if modelopt else ("weight_packed", "weight_global_scale")
    stored = factor.reshape(()) if modelopt else (1 / factor).reshape(1)
    tensors = {names[0]: ("U8", _pairs(codes)), "weight_scale": ("F8_E4M3", scales), names[1]: ("F32", stored)}
    return tensors, w.astype(np.float32)


def bitnet(rng, n, k, *, multiply=False) -> Encoded:
    q, scale = rng.integers(-1, 2, (n, k)), np.float32(rng.uniform(0.05, 0.1))
    rows = n // 4
    packed = np.zeros((rows, k), np.uint8)
    for i in range(4):
        packed |= ((q[i * rows : (i + 1) * rows] + 1) << (2 * i)).astype(np.uint8)
    stored = scale if multiply else 1 / scale
    return {"weight": ("U8", packed), "weight_scale": ("F32", np.reshape(stored, (1,)))}, (q * scale).astype(np.float32)


def bnb4(rng, n, k, *, nested=True, kind="nf4", block=64) -> Encoded:
    codes = rng.integers(0, 16, n * k)
    levels = NF4 if kind == "nf4" else rng.permutation(NF4)
    blocks = n * k // block
    state: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": [n, k]}
    tensors: Tensors = {
        "weight": ("U8", (codes[0::2] << 4 | codes[1::2]).reshape(-1, 1)),
        "weight.quant_map": ("F32", levels),
    }
    if nested:
        table, raw = rng.uniform(-1, 1, 256).astype(np.float32), rng.integers(0, 256, blocks)
        outer = rng.uniform(0.02, 0.04, -(-blocks // 16)).astype(np.float32)
        absmax = table[raw] * np.repeat(outer, 16)[:blocks] + np.float32(0.1)
        state |= {"nested_blocksize": 16, "nested_dtype": "float32", "nested_offset": float(np.float32(0.1))}
        tensors["weight.absmax"] = ("U8", raw)
        tensors["weight.nested_absmax"] = ("F32", outer)
        tensors["weight.nested_quant_map"] = ("F32", table)
    else:
        absmax = rng.uniform(0.05, 0.2, blocks).astype(np.float32)
        tensors["weight.absmax"] = ("F32", absmax)
    raw_state = np.frombuffer(json.dumps(state).encode(), np.uint8)
    tensors[f"weight.quant_state.bitsandbytes__{kind}"] = ("U8", raw_state)
    return tensors, (levels[codes] * np.repeat(absmax, block)).reshape(n, k).astype(np.float32)


def bnb8(rng, n, k) -> Encoded:
    q, scb = rng.integers(-127, 128, (n, k)), rng.uniform(0.1, 0.3, n).astype(np.float32)
    tensors = {"weight": ("I8", q), "SCB": ("F32", scb), "weight_format": ("U8", np.zeros((), np.uint8))}
    return tensors, (q * (scb / np.float32(127))[:, None]).astype(np.float32)
