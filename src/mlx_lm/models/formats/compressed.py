"""compressed-tensors (llm-compressor, vLLM): pack-quantized, int-quantized, naive-quantized, float-quantized, mxfp4 and
nvfp4.

What a layer holds says which of them it is in, so layers of one checkpoint may differ, and layers on the `ignore` list
are those that hold a plain weight. The group that a layer belongs to gives its bits, symmetry and blocks. Codes are
stored plus 2**(bits-1), lowest bits first; zero points likewise, packed along the output. Integers become exact affine
weights, MXFP4 stays as it is, eight-bit floats and NVFP4 as in their own modules.
Source: the compressed-tensors library's compressors.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ...errors import ConfigError
from .fp8 import Float8, block_size, decode, mxfp4, mxfp8
from .gptq import same_layout
from .layout import Converted, Groups, expect, integer_image, mlx_group, pack, uniform_groups, unpack
from .nvfp4 import Float4, convert_all

__all__ = ["convert"]

_FORMATS = (
    "dense",
    "float-quantized",
    "int-quantized",
    "mixed-precision",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
    "naive-quantized",
    "nvfp4-pack-quantized",
    "pack-quantized",
)
_PARTS = (
    "weight",
    "weight_packed",
    "weight_scale",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
    "weight_global_scale",
)


@dataclass(frozen=True)
class _Integers:
    words: mx.array  # (N, K*bits/32)
    scales: mx.array  # (N, G)
    zeros: mx.array | int
    bits: int
    groups: Groups


def convert(weights: dict[str, mx.array], settings: Mapping[str, Any], dtype: mx.Dtype) -> Converted:
    """Every compressed weight, packed where MLX has the layout, else dense."""
    _check(settings)
    result: Converted = dict(weights)
    integers: dict[str, _Integers] = {}
    eight: dict[str, Float8] = {}
    four: dict[str, Float4] = {}
    for name in weights:
        path = name.removesuffix(".weight_scale")
        if path == name:
            continue
        parts = {k: weights[f"{path}.{k}"] for k in _PARTS if f"{path}.{k}" in weights}
        for kind in parts:
            result.pop(f"{path}.{kind}")
        target, scheme = f"{path}.weight", _scheme(settings, path)
        codes = parts.get("weight_packed", parts.get("weight"))
        expect(codes is not None, name, "there is no weight for this scale")
        if "weight_global_scale" in parts:
            four[target] = Float4(target, codes, parts["weight_scale"], parts["weight_global_scale"], inverse=True)  # type: ignore[arg-type]
        elif "weight_packed" in parts and codes.dtype == mx.uint8:  # type: ignore[union-attr]
            result[target] = mxfp4(target, codes, parts["weight_scale"])  # type: ignore[arg-type]
        elif codes.dtype == mx.uint8:  # type: ignore[union-attr]
            block = block_size(scheme.get("block_structure"))
            eight[target] = Float8(target, codes, parts["weight_scale"], block)  # type: ignore[arg-type]
        else:
            integers[path] = _integers(path, parts, scheme)
    packs = all(w.powers_of_two() for w in eight.values())
    result.update({k: mxfp8(w) if packs else decode(w, dtype) for k, w in eight.items()})
    result.update(convert_all(four, dtype))
    sizes = same_layout({path: mlx_group(w.groups) for path, w in integers.items()})
    for path, w in integers.items():
        result[f"{path}.weight"] = integer_image(
            w.words, w.scales, w.zeros, bits=w.bits, groups=w.groups, group_size=sizes[path], dtype=dtype
        )
    return result


def _check(settings: Mapping[str, Any]) -> None:
    groups = settings.get("config_groups") or {}
    sparsity = (settings.get("sparsity_config") or {}).get("format") or "dense"
    forms = [settings.get("format") or "dense", *(g.get("format") or "dense" for g in groups.values())]
    unknown = [f for f in forms if f not in _FORMATS]
    if unknown or sparsity != "dense":
        raise ConfigError(
            f"config.json: compressed-tensors format {(unknown or [sparsity])[0]!r} is not supported; known: "
            f"{', '.join(_FORMATS)}. Use the model's float checkpoint and quantize it with mlx_lm.convert -q."
        )
    if settings.get("transform_config"):
        raise ConfigError("config.json: quantization_config.transform_config (rotations at run time) is not supported.")


def _scheme(settings: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """The `weights` entry of the group whose targets name this layer; names and patterns go before classes."""
    groups = list((settings.get("config_groups") or {}).values())
    for group in groups:
        for target in group.get("targets") or ():
            pattern = target.startswith("re:") and re.match(target[3:], path)
            if pattern or target == path or ("." in target and path.endswith("." + target)):
                return group.get("weights") or {}
    general = [g for g in groups if any(t in ("Linear", "Embedding") for t in g.get("targets") or ())]
    return ((general or groups or [{}])[0]).get("weights") or {}


def _integers(path: str, parts: Mapping[str, mx.array], scheme: Mapping[str, Any]) -> _Integers:
    words, bits, columns = _words(path, parts, scheme)
    rows, scales, zeros = words.shape[0], parts["weight_scale"], parts.get("weight_zero_point")
    if scales.size == 1:
        scales = mx.broadcast_to(scales.reshape(1, 1), (rows, 1))
    elif scales.ndim == 1:
        scales = scales[:, None]
    expect(scales.ndim == 2, path, f"weight_scale has the shape {scales.shape}")
    if scales.shape[0] != rows:  # blocks
        expect(scales.shape[0] > 0 and rows % scales.shape[0] == 0, path, f"weight_scale {scales.shape} fits no rows")
        scales = mx.repeat(scales, rows // scales.shape[0], axis=0)
    offset = 2 ** (bits - 1)
    expect(scheme.get("symmetric", True) or zeros is not None, path, "is asymmetric without a weight_zero_point")
    if scheme.get("symmetric", True) or zeros is None:
        zeros = offset
    elif zeros.dtype == mx.int32:
        zeros = unpack(zeros.T, bits)[:, :rows].T
    else:
        zeros = (zeros.astype(mx.int32) + offset).astype(mx.uint8)
        zeros = mx.broadcast_to(zeros.reshape(-1, 1) if zeros.ndim < 2 else zeros, scales.shape)
    ok = isinstance(zeros, int) or zeros.shape == scales.shape
    expect(ok, path, "weight_zero_point does not fit weight_scale")
    groups = uniform_groups(columns, scales.shape[1], path)
    order = parts.get("weight_g_idx")
    if order is not None and order.size:
        named = np.array(order).astype(np.int64)
        if named.min() >= 0:  # -1: no activation order
            fits = named.shape == (columns,) and named.max() < scales.shape[1]
            expect(fits, path, "weight_g_idx names groups that weight_scale does not have")
            groups = named
    return _Integers(words, scales, zeros, bits, groups)


def _words(path: str, parts: Mapping[str, mx.array], scheme: Mapping[str, Any]) -> tuple[mx.array, int, int]:
    """(words (N, K*bits/32), bits, K), codes made unsigned."""
    if "weight_packed" not in parts:
        codes = parts["weight"]
        expect(codes.dtype == mx.int8 and codes.ndim == 2, path, f"weight is {codes.dtype} {codes.shape}, not integers")
        columns = codes.shape[1]
        unsigned = codes.view(mx.uint8) ^ 128
        spare = -columns % 4
        return pack(mx.pad(unsigned, [(0, 0), (0, spare)]) if spare else unsigned, 8), 8, columns
    words, shape = parts["weight_packed"], parts.get("weight_shape")
    bits = scheme.get("num_bits", 4)
    if bits not in (2, 4, 8):
        raise ConfigError(f"config.json: {path} is packed with num_bits={bits!r}; 2, 4 and 8 are supported.")
    rows, columns = (words.shape[0], words.shape[-1] * 32 // bits) if shape is None else _shape(path, shape)
    fits = words.ndim == 2 and words.itemsize == 4 and -(-columns * bits // 32) == words.shape[1]
    expect(
        fits and rows == words.shape[0], path, f"weight_packed {words.shape} does not fit weight_shape and {bits} bits"
    )
    return words.view(mx.uint32), bits, columns


def _shape(path: str, shape: mx.array) -> tuple[int, int]:
    values = [int(n) for n in np.array(shape).reshape(-1)]
    expect(len(values) == 2 and min(values) > 0, path, f"weight_shape holds {values[:4]}")
    return values[0], values[1]
