"""BitNet b1.58: ternary weights, four to a byte, as exact 2-bit affine weights (codes 0, 1, 2; bias = -scale).

Offline checkpoints hold bytes (N/4, K), where bits 2i of row r are row `i*N/4 + r`, and one `weight_scale`: the class
`bitlinear` divides by it, `autobitlinear` multiplies. Online checkpoints hold float weights that are rounded to
`mean(|w|) * {-1, 0, 1}`. Activations, which BitNet rounds to 8 bits, stay in float.
Source: https://arxiv.org/abs/2402.17764 and the layout of transformers' BitNet integration.
"""

import re
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from ...errors import ConfigError
from .layout import Converted, Packed, expect, integer_image, mlx_group, pack

__all__ = ["convert"]

_NEVER_ONLINE = r"embed|wte|wpe|lm_head|norm"


def convert(weights: dict[str, mx.array], settings: Mapping[str, Any], dtype: mx.Dtype) -> Converted:
    """Every ternary weight packed (dense where the width has no whole group of 32)."""
    kind, mode = settings.get("linear_class", "bitlinear"), settings.get("quantization_mode", "offline")
    if kind not in ("bitlinear", "autobitlinear") or mode not in ("online", "offline"):
        raise ConfigError(f"config.json: BitNet with linear_class={kind!r}, quantization_mode={mode!r} is not known.")
    if settings.get("use_rms_norm"):
        raise ConfigError(
            "config.json: quantization_config.use_rms_norm (a norm inside each BitNet layer) is not supported."
        )
    if kind == "autobitlinear" and mode == "online":
        return _online(weights, settings, dtype)
    result: Converted = dict(weights)
    for name, codes in weights.items():
        if not name.endswith(".weight") or codes.dtype != mx.uint8:
            continue
        scale = weights.get(f"{name}_scale")
        expect(scale is not None and scale.size == 1 and codes.ndim == 2, name, "is ternary without one weight_scale")
        result.pop(f"{name}_scale")
        scale = scale.reshape(1, 1)  # type: ignore[union-attr]
        if kind == "bitlinear":
            scale = 1 / scale.astype(mx.float32)
        ternary = mx.concatenate([(codes >> (2 * i)) & 3 for i in range(4)])
        result[name] = _image(ternary, scale, dtype)
    return result


def _image(ternary: mx.array, scale: mx.array, dtype: mx.Dtype) -> Packed | mx.array:
    rows, columns = ternary.shape
    groups = np.zeros(columns, np.int64)
    size = mlx_group(groups)
    if not size:
        return ((ternary.astype(mx.float32) - 1) * scale.astype(mx.float32)).astype(dtype)
    scales = mx.broadcast_to(scale, (rows, 1))
    return integer_image(pack(ternary, 2), scales, 1, bits=2, groups=groups, group_size=size, dtype=dtype)


def _online(weights: dict[str, mx.array], settings: Mapping[str, Any], dtype: mx.Dtype) -> Converted:
    kept = [str(name) for name in settings.get("modules_to_not_convert") or ()]
    result: Converted = dict(weights)
    for name, weight in weights.items():
        path = name.removesuffix(".weight")
        own = any(path == k or path.startswith(k + ".") or path.endswith("." + k) for k in kept)
        if path == name or weight.ndim != 2 or own or re.search(_NEVER_ONLINE, path):
            continue
        exact = weight.astype(mx.float32)
        inverse = 1 / mx.maximum(mx.abs(exact).mean(), 1e-5)
        ternary = (mx.clip(mx.round(exact * inverse), -1, 1) + 1).astype(mx.uint8)
        result[name] = _image(ternary, (1 / inverse).astype(weight.dtype).reshape(1, 1), dtype)
    return result
