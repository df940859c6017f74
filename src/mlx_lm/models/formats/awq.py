"""AWQ in AutoAWQ's gemm layout: 4 bits, codes and zero points packed along the output in an interleaved order.

`qweight` (K, N/8), `qzeros` (G, N/8) int32, `scales` (G, N). A word holds columns 0, 2, 4, 6, 1, 3, 5, 7 of its eight,
lowest bits first. The image is exact: `w = scale * (code - zero)`.
Source: https://arxiv.org/abs/2306.00978 and the layout of AutoAWQ's `WQLinear_GEMM`.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from ...errors import ConfigError
from .gptq import same_layout
from .layout import Converted, expect, integer_image, mlx_group, uniform_groups, unpack

__all__ = ["convert"]

_NIBBLE_OF_COLUMN = (0, 4, 1, 5, 2, 6, 3, 7)


def convert(weights: dict[str, mx.array], settings: Mapping[str, Any], dtype: mx.Dtype) -> Converted:
    """Every `qweight` as an exact affine weight (dense where the width has no whole group of 32)."""
    version = str(settings.get("version") or settings.get("format") or "gemm").lower()
    bits = settings.get("bits", settings.get("w_bit", 4))
    if version != "gemm" or bits != 4:
        raise ConfigError(
            f"config.json: AWQ weights of version {version!r} with {bits!r} bits are not supported, only 'gemm' "
            "with 4; save the model again in that version."
        )
    result: Converted = dict(weights)
    groups = {}
    for name in weights:
        if name.endswith(".qweight"):
            path = name.removesuffix(".qweight")
            _check(path, weights)
            groups[path] = uniform_groups(weights[name].shape[0], weights[f"{path}.scales"].shape[0], name)
    sizes = same_layout({path: mlx_group(g) for path, g in groups.items()})
    for path, columns in groups.items():
        result[f"{path}.weight"] = integer_image(
            _transposed(weights[f"{path}.qweight"]),
            weights[f"{path}.scales"].T,
            _zeros(weights, path),
            bits=4,
            groups=columns,
            group_size=sizes[path],
            dtype=dtype,
        )
        for kind in ("qweight", "scales", "qzeros"):
            result.pop(f"{path}.{kind}", None)
    return result


def _codes(words: mx.array) -> mx.array:
    """(rows, N/8) words -> codes (rows, N) in the order of the columns."""
    eights = mx.unflatten(unpack(words, 4), -1, (-1, 8))
    return mx.take(eights, mx.array(_NIBBLE_OF_COLUMN), axis=-1).flatten(-2)


def _transposed(words: mx.array) -> mx.array:
    """(K, N/8) interleaved words -> MLX's words (N, K/8); whole words at a time, twice as fast as code by code."""
    pairs = words.view(mx.uint32).reshape(words.shape[0] // 2, 2, -1)
    first, second, mask = pairs[:, 0], pairs[:, 1], mx.array(0x0F0F0F0F, mx.uint32)
    even = (first & mask) | ((second & mask) << 4)  # the bytes of two rows and columns 0, 4, 1, 5
    odd = ((first >> 4) & mask) | (second & ~mask)  # columns 2, 6, 3, 7
    halves = [mx.contiguous(half).view(mx.uint8).reshape(*half.shape, 4) for half in (even, odd)]
    eights = mx.concatenate(halves, axis=-1).transpose(1, 2, 0)  # (N/8, 8, K/2)
    ordered = mx.take(eights, mx.array((0, 2, 4, 6, 1, 3, 5, 7)), axis=1)
    return mx.contiguous(ordered).reshape(-1, words.shape[0] // 2).view(mx.uint32)


def _zeros(weights: Mapping[str, mx.array], path: str) -> mx.array | int:
    qzeros = weights.get(f"{path}.qzeros")
    return 8 if qzeros is None else _codes(qzeros).T


def _check(path: str, weights: Mapping[str, mx.array]) -> None:
    qweight, scales, qzeros = (weights.get(f"{path}.{k}") for k in ("qweight", "scales", "qzeros"))
    expect(scales is not None and scales.ndim == qweight.ndim == 2, path, "qweight has no scales beside it")  # type: ignore[union-attr]
    shapes = [t.shape for t in (qweight, scales, qzeros) if t is not None]
    fits = shapes[0][1] * 8 == shapes[1][1] and qweight.itemsize == 4  # type: ignore[union-attr]
    fits = fits and shapes[0][0] % 8 == 0  # whole words of MLX
    fits = fits and (qzeros is None or (shapes[2] == (shapes[1][0], shapes[0][1]) and qzeros.itemsize == 4))
    expect(fits, path, f"qweight, scales and qzeros have the shapes {shapes}, which are not AWQ's")
