"""Normalization layers."""

import mlx.core as mx
import mlx.nn as nn

from .. import kernels

__all__ = ["GatedRMSNorm", "HeadNorm", "LayerNorm", "RMSNorm", "UnitRMSNorm"]


class RMSNorm(nn.Module):
    """Root-mean-square norm scaled by `offset + weight`; `offset=1` is Gemma's form, which stores weight - 1."""

    def __init__(self, dims: int, eps: float = 1e-5, *, offset: float = 0.0):
        super().__init__()
        self.weight = mx.zeros((dims,)) if offset else mx.ones((dims,))
        self.eps = eps
        self.offset = offset

    def __call__(self, x: mx.array) -> mx.array:
        return kernels.rms_norm(x, self["weight"], self.eps, offset=self.offset)


class UnitRMSNorm(nn.Module):
    """Root-mean-square norm without a weight."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return kernels.rms_norm(x, None, self.eps)


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


class GatedRMSNorm(nn.Module):
    """Norm of x * silu(gate), over `groups` equal parts of the last axis; `norm_first` norms x and gates the result.

    Computed in float32. Sources: https://arxiv.org/abs/2405.21060, section 7.2; https://arxiv.org/abs/2412.06464.
    """

    def __init__(
        self, dims: int, eps: float = 1e-5, *, groups: int = 1, norm_first: bool = False, gate_act: str = "silu"
    ):
        super().__init__()
        self.weight = mx.ones((dims,))
        self.eps, self.groups = eps, groups
        self.norm_first, self.gate_act = norm_first, gate_act

    def __call__(self, x: mx.array, gate: mx.array) -> mx.array:
        dtype = x.dtype
        x, gate = x.astype(mx.float32), kernels.activation(gate.astype(mx.float32), self.gate_act)
        if not self.norm_first:
            x = x * gate
        x = kernels.rms_norm(mx.unflatten(x, -1, (self.groups, -1)), None, self.eps).flatten(-2) * self.weight
        return (x * gate if self.norm_first else x).astype(dtype)


class HeadNorm(nn.Module):
    """A layer norm with a weight, and where asked a bias, of its own for each head, of x (B, H, L, D).

    They are (H, D), or `flat` (H*D,).
    """

    def __init__(self, num_heads: int, head_dim: int, eps: float, *, bias: bool = False, flat: bool = False):
        super().__init__()
        self._heads = num_heads
        shape = (num_heads * head_dim,) if flat else (num_heads, head_dim)
        self.weight = mx.ones(shape)
        if bias:
            self.bias = mx.zeros(shape)
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        y = kernels.layer_norm(x, None, None, self.eps) * self.weight.reshape(self._heads, 1, -1)
        return y + self.bias.reshape(self._heads, 1, -1) if "bias" in self else y
