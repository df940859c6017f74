"""GPTQ: codes packed along the input, zero points packed along the output, scales by group, columns by `g_idx`.

`qweight` (K*bits/32, N) is MLX's bit stream transposed, for 2, 3, 4 and 8 bits alike. `qzeros` holds the zero point
minus one in the first version of the format and the zero point itself in `gptq_v2`. Where `g_idx` keeps runs of 32 or
more aligned columns in one group the image is exact and packed; with a real activation order (`desc_act`) columns of a
group are scattered, MLX has no such layout, and the layer becomes dense.
Source: https://arxiv.org/abs/2210.17323 and the layout of AutoGPTQ's `QuantLinear`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ...errors import ConfigError
from .layout import AFFINE_BITS, Converted, Groups, expect, integer_image, mlx_group, uniform_groups, unpack

__all__ = ["convert", "same_layout"]


@dataclass(frozen=True)
class _Layer:
    path: str
    qweight: mx.array
    scales: mx.array
    qzeros: mx.array
    bits: int
    groups: Groups


def convert(weights: dict[str, mx.array], settings: Mapping[str, Any], dtype: mx.Dtype) -> Converted:
    """Every `qweight` as an exact affine weight, or dense where `g_idx` scatters its groups."""
    form = str(settings.get("checkpoint_format") or settings.get("format") or "gptq").lower()
    if form not in ("gptq", "gptq_v2"):
        raise ConfigError(
            f"config.json: GPTQ weights in the format {form!r} are not supported, only 'gptq' and 'gptq_v2'; "
            "save the model again in one of them."
        )
    result: Converted = dict(weights)
    layers = [_layer(result, name, settings) for name in weights if name.endswith(".qweight")]
    sizes = same_layout({layer.path: mlx_group(layer.groups) for layer in layers})
    for layer in layers:
        zeros = unpack(layer.qzeros, layer.bits)
        if form == "gptq":
            zeros = zeros.astype(mx.uint32) + 1  # up to 2**bits, as the format's own kernels have it
        words = mx.contiguous(layer.qweight.T).view(mx.uint32)
        result[f"{layer.path}.weight"] = integer_image(
            words,
            layer.scales.T,
            zeros.T,
            bits=layer.bits,
            groups=layer.groups,
            group_size=sizes[layer.path],
            dtype=dtype,
        )
    return result


def same_layout(sizes: Mapping[str, int]) -> dict[str, int]:
    """One group size for all layers of a kind (paths that differ in numbers alone), because experts are stacked."""
    kinds: dict[str, int] = {}
    for path, size in sizes.items():
        kind = re.sub(r"\d+", "*", path)
        kinds[kind] = min(size, kinds.get(kind, size))
    return {path: kinds[re.sub(r"\d+", "*", path)] for path in sizes}


def _layer(tensors: Converted, name: str, settings: Mapping[str, Any]) -> _Layer:
    """Takes the tensors of one layer out of `tensors`."""
    path = name.removesuffix(".qweight")
    qweight, scales, qzeros, g_idx = (
        tensors.pop(f"{path}.{k}", None) for k in ("qweight", "scales", "qzeros", "g_idx")
    )
    if not isinstance(scales, mx.array) or not isinstance(qzeros, mx.array) or not isinstance(qweight, mx.array):
        expect(False, name, "has no scales or qzeros beside it")
        raise AssertionError
    bits = settings.get("bits")
    if isinstance(g_idx, mx.array) and g_idx.size:  # some layers may have bits of their own
        bits = qweight.shape[0] * 32 / g_idx.size
    if bits not in AFFINE_BITS:
        raise ConfigError(f"config.json: {path} has {bits!r} bits; GPTQ layers with 2, 3, 4 and 8 are supported.")
    bits = int(bits)
    rows, columns, count = qweight.shape[1], qweight.shape[0] * 32 // bits, scales.shape[0]
    fits = qweight.ndim == scales.ndim == qzeros.ndim == 2 and scales.shape[1] == rows
    fits = fits and qzeros.shape == (count, rows * bits // 32) and qweight.itemsize == qzeros.itemsize == 4
    expect(fits, name, f"{qweight.shape}, scales {scales.shape} and qzeros {qzeros.shape} do not fit {bits} bits")
    if isinstance(g_idx, mx.array) and g_idx.size:
        groups = np.array(g_idx).astype(np.int64)
        expect(groups.min() >= 0 and groups.max() < count, name, f"g_idx names groups beyond the {count} of its scales")
    else:
        groups = uniform_groups(columns, count, name)
    return _Layer(path, qweight, scales, qzeros, bits, groups)
