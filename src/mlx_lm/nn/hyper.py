"""Hyper-connections: several residual streams, mixed by weights that each token makes from all of them.

Sources: manifold-constrained hyper-connections, https://arxiv.org/abs/2512.24880; the gated form is Qwen4-Exp's.
"""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from .linear import Linear

__all__ = ["GatedStreams", "HyperConnection", "HyperHead", "StreamNorm", "weighted"]


def weighted(x: mx.array, weights: mx.array) -> mx.array:
    """The sum of streams x (B, L, N, D) by weights (B, L, N): (B, L, D), in the streams' type."""
    return (weights[..., None] * x).sum(axis=2).astype(x.dtype)


class HyperConnection(nn.Module):
    """Collapses streams (B, L, N, D) into a block's input, and spreads its output (B, L, D) over them again."""

    def __init__(self, streams: int, hidden_size: int, *, steps: int, eps: float, norm_eps: float):
        super().__init__()
        self._streams, self._steps, self._eps, self._norm_eps = streams, steps, eps, norm_eps
        self.fn = mx.zeros(((2 + streams) * streams, streams * hidden_size))
        self.base = mx.zeros(((2 + streams) * streams,))
        self.scale = mx.ones((3,))

    def collapse(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """The block's input (B, L, D), the spreading weights (B, L, N) and the mixing matrices (B, L, N, N)."""
        pre, post, mix = self.weights(x)
        return weighted(x, pre), post, mix

    def weights(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """The collapsing and the spreading weights (B, L, N) and the mixing matrices (B, L, N, N), float32."""
        n, eps = self._streams, self._eps
        raw = kernels.rms_norm(x.flatten(2).astype(mx.float32), None, self._norm_eps) @ self.fn.astype(mx.float32).T
        base, scale = self.base.astype(mx.float32), self.scale.astype(mx.float32)
        parts = zip(mx.split(raw, [n, 2 * n], axis=-1), mx.split(base, [n, 2 * n]), scale, strict=True)
        pre, post, mix = (part * factor + shift for part, shift, factor in parts)
        mix = mx.softmax(mx.unflatten(mix, -1, (n, n)), axis=-1) + eps
        mix = mix / (mix.sum(axis=-2, keepdims=True) + eps)
        for _ in range(self._steps - 1):  # Sinkhorn-Knopp: rows and columns that sum to 1
            mix = mix / (mix.sum(axis=-1, keepdims=True) + eps)
            mix = mix / (mix.sum(axis=-2, keepdims=True) + eps)
        return mx.sigmoid(pre) + eps, 2 * mx.sigmoid(post), mix

    def spread(self, y: mx.array, x: mx.array, post: mx.array, mix: mx.array) -> mx.array:
        """Streams after the block, from its output `y` and the streams `x` before it."""
        return post.astype(x.dtype)[..., None] * y[:, :, None] + mix.astype(x.dtype).swapaxes(-1, -2) @ x


class HyperHead(nn.Module):
    """Streams (B, L, N, D) -> hidden states (B, L, D)."""

    def __init__(self, streams: int, hidden_size: int, *, eps: float, norm_eps: float):
        super().__init__()
        self._eps, self._norm_eps = eps, norm_eps
        self.hc_fn = mx.zeros((streams, streams * hidden_size))
        self.hc_base = mx.zeros((streams,))
        self.hc_scale = mx.ones((1,))

    def __call__(self, x: mx.array) -> mx.array:
        raw = kernels.rms_norm(x.flatten(2).astype(mx.float32), None, self._norm_eps) @ self.hc_fn.astype(mx.float32).T
        pre = mx.sigmoid(raw * self.hc_scale.astype(mx.float32) + self.hc_base.astype(mx.float32)) + self._eps
        return weighted(x, pre)


class StreamNorm(nn.Module):
    """Root-mean-square norm of each stream of x (B, L, N, D), scaled by 1 + weight (N*D,)."""

    def __init__(self, streams: int, hidden_size: int, eps: float):
        super().__init__()
        self.weight = mx.zeros((streams * hidden_size,))
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        normed = kernels.rms_norm(x.astype(mx.float32), None, self.eps)
        return (normed * (1 + self.weight.astype(mx.float32).reshape(x.shape[-2:]))).astype(x.dtype)


class GatedStreams(nn.Module):
    """Streams (B, L, N, D) -> their mean under a gate for each feature (B, L, D); `rank` is the gates' bottleneck."""

    def __init__(self, streams: int, hidden_size: int, rank: int, eps: float, *, spreads: bool = True):
        super().__init__()
        self.streams = streams
        self.hc_norm = StreamNorm(streams, hidden_size, eps)
        self.input_mix_weight_down = Linear(streams * hidden_size, rank, bias=False)
        self.input_mix_weight_up = Linear(rank, streams * hidden_size, bias=False)
        if spreads:
            self.block_inject_weight = Linear(streams * hidden_size, streams, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self._collapse(self.hc_norm(x))

    def through(self, x: mx.array, block: Callable[[mx.array], mx.array]) -> mx.array:
        """The streams with the output of `block` added to each by its share."""
        normed = self.hc_norm(x)
        shares = 2 * mx.sigmoid(self.block_inject_weight(normed.flatten(2)) / self.streams)
        return x + shares[..., None] * block(self._collapse(normed))[:, :, None]

    def _collapse(self, normed: mx.array) -> mx.array:
        low = kernels.activation(self.input_mix_weight_down(normed.flatten(2)) / self.streams, "silu")
        gates = mx.sigmoid(self.input_mix_weight_up(low)).reshape(normed.shape)
        return (gates * normed).mean(axis=2)
