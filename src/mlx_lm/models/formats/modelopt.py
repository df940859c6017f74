"""NVIDIA ModelOpt: NVFP4 and FP8 (one scale, a scale for each row, or blocks), as its Hugging Face export writes them.

A weight with `weight_scale_2` beside it is NVFP4, one with `weight_scale` alone FP8. Scales of activations and of the
key-value cache are not used.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from ...errors import ConfigError
from .fp8 import Float8, decode, mxfp8
from .layout import Converted, expect
from .nvfp4 import Float4, convert_all

__all__ = ["convert"]

_KNOWN = ("NVFP4", "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "FP8_PB_REAL", "MIXED_PRECISION")


def convert(weights: dict[str, mx.array], settings: Mapping[str, Any], dtype: mx.Dtype) -> Converted:
    """Every quantized weight, packed where MLX has the layout, else dense."""
    algorithm = str(settings.get("quant_algo") or "MIXED_PRECISION").upper()
    if algorithm not in _KNOWN:
        raise ConfigError(
            f"config.json: quant_algo {algorithm!r} of modelopt is not supported; known: {', '.join(_KNOWN)}. "
            "Use the model's float checkpoint and quantize it with mlx_lm.convert -q."
        )
    result: Converted = dict(weights)
    four: dict[str, Float4] = {}
    eight: dict[str, Float8] = {}
    for name in weights:
        path = name.removesuffix(".weight_scale")
        if path == name:
            continue
        if f"{path}.pre_quant_scale" in weights:
            raise ConfigError(f"{path}: modelopt's pre_quant_scale is not supported.")
        target = f"{path}.weight"
        codes, scales, factor = (weights.get(k) for k in (target, name, f"{path}.weight_scale_2"))
        expect(codes is not None, name, f"there is no {target} for this scale")
        if factor is not None:
            four[target] = Float4(target, codes, scales, factor)  # type: ignore[arg-type]
        else:
            eight[target] = Float8(target, codes, scales, (128, 128))  # type: ignore[arg-type]
        for kind in ("weight_scale", "weight_scale_2"):
            result.pop(f"{path}.{kind}", None)
    packs = all(w.powers_of_two() for w in eight.values())
    result.update({k: mxfp8(w) if packs else decode(w, dtype) for k, w in eight.items()})
    result.update(convert_all(four, dtype))
    return result
