"""Plain float64 numpy for the references of this folder: no cache, no batch, one sequence (L, D) at a time.

Written from papers and from the meaning of config keys; shares nothing with the package that it judges.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np

__all__ = [
    "Draw", "attention", "causal", "gated", "gelu", "gelu_tanh", "heads", "layer_norm", "merge", "rms", "rope",
    "sigmoid", "silu", "softmax", "softplus",
]  # fmt: skip

Array = np.ndarray[Any, np.dtype[np.float64]]


class Draw:
    """Makes each tensor when it is first asked for, from its name; `tensors` is then the checkpoint (float32)."""

    def __init__(self) -> None:
        self.tensors: dict[str, np.ndarray[Any, Any]] = {}

    def __call__(self, name: str, *shape: int, spread: float | None = None, center: float | None = None) -> Array:
        if name not in self.tensors:
            generator = np.random.default_rng(zlib.crc32(name.encode()))
            if spread is None:
                spread = 0.2 if len(shape) == 1 else 1 / math.sqrt(shape[-1])
            if center is None:
                center = 1.0 if len(shape) == 1 and "norm" in name and not name.endswith("bias") else 0.0
            self.tensors[name] = (center + spread * generator.standard_normal(shape)).astype(np.float32)
        assert self.tensors[name].shape == shape, name
        return self.tensors[name].astype(np.float64)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def softplus(x: Array) -> Array:
    return np.logaddexp(x, 0)


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rms(x: Array, weight: Array | float, eps: float) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def layer_norm(x: Array, weight: Array | float, bias: Array | float, eps: float) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def heads(x: Array, count: int) -> Array:
    """(L, H*D) -> (H, L, D)."""
    return x.reshape(len(x), count, -1).transpose(1, 0, 2)


def merge(x: Array) -> Array:
    """(H, L, D) -> (L, H*D)."""
    return x.transpose(1, 0, 2).reshape(x.shape[1], -1)


def rope(x: Array, theta: float = 10000.0, dims: int | None = None, *, pairs: bool = False, freqs: Any = None) -> Array:
    """Rotates the first `dims` features of (H, L, D): halves, or neighbouring `pairs`; with given `freqs`."""
    dims = x.shape[-1] if dims is None else dims
    freqs = theta ** (-np.arange(0, dims, 2) / dims) if freqs is None else freqs
    turn = np.exp(1j * np.arange(x.shape[1])[:, None] * freqs)
    part = x[..., :dims]
    first, second = (part[..., ::2], part[..., 1::2]) if pairs else np.split(part, 2, axis=-1)
    turned = (first + 1j * second) * turn
    out = np.empty_like(part)
    if pairs:
        out[..., ::2], out[..., 1::2] = turned.real, turned.imag
    else:
        out = np.concatenate([turned.real, turned.imag], axis=-1)
    return np.concatenate([out, x[..., dims:]], axis=-1)


def causal(length: int, window: int | None = None) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(L, L): what position i sees of j."""
    i, j = np.arange(length)[:, None], np.arange(length)[None]
    return (j <= i) & (i - j < (window or length + 1))


def attention(q: Array, k: Array, v: Array, scale: float | None = None, window: int | None = None) -> Array:
    """(H, L, D) with (G, L, D): each key head serves H/G query heads in turn."""
    share = len(q) // len(k)
    k, v = np.repeat(k, share, axis=0), np.repeat(v, share, axis=0)
    scores = q @ k.swapaxes(1, 2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return softmax(np.where(causal(q.shape[1], window), scores, -np.inf)) @ v


def gated(x: Array, gate: Array, up: Array, down: Array, act: Any = silu) -> Array:
    return (act(x @ gate.T) * (x @ up.T)) @ down.T
