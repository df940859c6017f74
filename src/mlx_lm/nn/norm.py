"""Normalization layers."""

import mlx.core as mx
import mlx.nn as nn

from .. import kernels

__all__ = ["LayerNorm", "RMSNorm"]


class RMSNorm(nn.Module):
    """Root-mean-square norm scaled by `offset + weight`; `offset=1` is Gemma's form, which stores weight - 1."""

    def __init__(self, dims: int, eps: float = 1e-5, *, offset: float = 0.0):
        super().__init__()
        self.weight = mx.zeros((dims,)) if offset else mx.ones((dims,))
        self.eps = eps
        self.offset = offset

    def __call__(self, x: mx.array) -> mx.array:
        return kernels.rms_norm(x, self["weight"], self.eps, offset=self.offset)


class LayerNorm(nn.Module):
    """Layer norm, with or without weight and bias."""

    def __init__(self, dims: int, eps: float = 1e-5, *, affine: bool = True, bias: bool = True):
        super().__init__()
        if affine:
            self.weight = mx.ones((dims,))
            if bias:
                self.bias = mx.zeros((dims,))
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return kernels.layer_norm(x, self.get("weight"), self.get("bias"), self.eps)
