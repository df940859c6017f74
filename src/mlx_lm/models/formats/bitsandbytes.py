"""bitsandbytes: nf4 and fp4 (dense: their 16 levels lie on no grid) and int8 (exact 8-bit affine).

Four bits: `weight` holds two codes a byte, the high half first, over the flat matrix in blocks; `absmax` scales each
block and may itself be 8-bit (nested) with an offset; `quant_map` holds the levels and a JSON tensor the rest.
Int8: `weight` (N, K) with `SCB` (N,), w = code * SCB / 127.
Source: https://arxiv.org/abs/2305.14314, https://arxiv.org/abs/2208.07339 and bitsandbytes' `QuantState`.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from ...errors import ModelFileError
from .layout import Converted, decode_pairs, expect, integer_image, mlx_group, pack

__all__ = ["convert"]

_MAX_BLOCK = 1 << 16
_STATE = ".quant_state.bitsandbytes__"
_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")


def convert(weights: dict[str, mx.array], settings: Mapping[str, Any], dtype: mx.Dtype) -> Converted:
    """Every 4-bit weight dense, every int8 weight packed."""
    result: Converted = dict(weights)
    for name in weights:
        if _STATE in name:
            target = name[: name.index(_STATE)]
            parts = {k: weights[f"{target}.{k}"] for k in _PARTS if f"{target}.{k}" in weights}
            result[target] = _dense(target, weights.get(target), parts, _state(name, weights[name])).astype(dtype)
            for key in (name, *(f"{target}.{k}" for k in parts)):
                del result[key]
        elif name.endswith(".SCB"):
            path = name.removesuffix(".SCB")
            result[f"{path}.weight"] = _int8(path, weights, dtype)
            for kind in ("SCB", "weight_format"):
                result.pop(f"{path}.{kind}", None)
    return result


def _state(name: str, raw: mx.array) -> dict[str, Any]:
    try:
        state = json.loads(bytes(np.array(raw)).decode("utf-8"))
        fields = [int(state["blocksize"]), *(int(n) for n in state["shape"])]
        nested = int(state.get("nested_blocksize") or 1), float(state.get("nested_offset") or 0.0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{name}: is not the JSON that bitsandbytes writes ({error!r}).") from error
    blocks = fields[0], nested[0]
    ok = len(fields) == 3 and min(*fields, nested[0]) > 0 and max(blocks) <= _MAX_BLOCK
    expect(ok, name, f"has blocks of {blocks} and the shape {fields[1:]}")
    return {"blocksize": fields[0], "shape": tuple(fields[1:]), "nested_blocksize": nested[0], "offset": nested[1]}


def _dense(name: str, packed: mx.array | None, parts: Mapping[str, mx.array], state: Mapping[str, Any]) -> mx.array:
    size, block = math.prod(state["shape"]), state["blocksize"]
    fits = packed is not None and packed.dtype == mx.uint8 and packed.size == -(-size // 2)
    fits = fits and "absmax" in parts and "quant_map" in parts and parts["quant_map"].size == 16
    expect(fits and parts["absmax"].size == -(-size // block), name, f"does not hold 4-bit codes of {state['shape']}")
    absmax = parts["absmax"].reshape(-1)
    if "nested_absmax" in parts:
        outer, inner = parts["nested_absmax"].reshape(-1), state["nested_blocksize"]
        levels = parts.get("nested_quant_map")
        ok = absmax.dtype == mx.uint8 and levels is not None and levels.size == 256
        expect(ok and outer.size == -(-absmax.size // inner), name, "has a nested absmax that does not fit")
        scale = mx.repeat(outer, inner)[: absmax.size]
        absmax = mx.take(levels.reshape(-1), absmax) * scale + state["offset"]  # type: ignore[union-attr]
    expect(mx.issubdtype(absmax.dtype, mx.floating), name, "has an 8-bit absmax without its own scales")
    levels = parts["quant_map"].reshape(-1).astype(mx.float32)
    values = decode_pairs(packed.reshape(-1), levels, high_first=True)[:size]  # type: ignore[union-attr]
    spare = -size % block
    values = mx.pad(values, (0, spare)).reshape(-1, block) * absmax.astype(mx.float32)[:, None]
    return values.reshape(-1)[:size].reshape(state["shape"])


def _int8(path: str, weights: Mapping[str, mx.array], dtype: mx.Dtype) -> Any:
    codes, scb, form = (weights.get(f"{path}.{k}") for k in ("weight", "SCB", "weight_format"))
    fits = codes is not None and scb is not None and codes.dtype == mx.int8 and codes.ndim == 2
    expect(fits and scb.shape == codes.shape[:1], path, "int8 weight and SCB do not fit")  # type: ignore[union-attr]
    expect(form is None or form.item() == 0, path, "is stored in a GPU tile order (weight_format); save it again")
    groups = np.zeros(codes.shape[1], np.int64)  # type: ignore[union-attr]
    scales = (scb.astype(mx.float32) / 127)[:, None]  # type: ignore[union-attr]
    size = mlx_group(groups)
    if not size:
        return (codes.astype(mx.float32) * scales).astype(dtype)  # type: ignore[union-attr]
    words = pack(codes.view(mx.uint8) ^ 128, 8)  # type: ignore[union-attr]
    return integer_image(words, scales, 128, bits=8, groups=groups, group_size=size, dtype=dtype)
