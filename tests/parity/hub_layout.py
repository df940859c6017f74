"""Published weight layouts that differ from what `save_pretrained` writes."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

__all__ = ["to_hub_layout"]

_FP4 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)


def to_hub_layout(
    family: str, weights: dict[str, mx.array], config: dict[str, Any]
) -> tuple[dict[str, mx.array], dict[str, Any]]:
    """Weights and config as the family's published checkpoints have them, with equal values.

    gpt_oss publishes its experts in MXFP4: `*_blocks` uint8 (E, out, in / 32, 16), two values to a byte with the even
    one in the low bits, and `*_scales` uint8 (E, out, in / 32), a power of two biased by 127. Other families publish
    what `save_pretrained` writes.
    """
    if family != "gpt_oss":
        return weights, config
    result: dict[str, mx.array] = {}
    for name, value in weights.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            blocks, scales = _mxfp4(np.array(value).swapaxes(1, 2))
            result[f"{name}_blocks"], result[f"{name}_scales"] = mx.array(blocks), mx.array(scales)
        else:
            result[name] = value
    skipped = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    return result, {**config, "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": skipped}}


def _mxfp4(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    experts, out, width = values.shape
    blocks = values.reshape(experts, out, width // 32, 32)
    exponent = np.floor(np.log2(np.abs(blocks).max(-1))) - 2
    units = blocks / np.exp2(exponent)[..., None]
    codes = np.abs(np.abs(units)[..., None] - _FP4).argmin(-1).astype(np.uint8)
    if not np.array_equal(_FP4[codes], np.abs(units)):
        raise ValueError("values do not fit MXFP4")
    codes |= (np.signbit(units).astype(np.uint8)) << 3
    return codes[..., 0::2] | (codes[..., 1::2] << 4), (exponent + 127).astype(np.uint8)
