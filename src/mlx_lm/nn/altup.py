"""Several residual streams of which one is computed, low-rank residuals, and sparse gates: what Gemma 3n is made of.

Sources: AltUp https://arxiv.org/abs/2301.13310, LAuReL https://arxiv.org/abs/2411.07501.
"""

import mlx.core as mx
import mlx.nn as nn

from .linear import Linear
from .mlp import GatedMLP, gated
from .norm import RMSNorm

__all__ = ["AltUp", "Laurel", "SparseMLP"]


class SparseMLP(GatedMLP):
    """Only gates over a quantile, estimated from a token's mean and deviation, stay."""

    deviations = 0.0

    def __call__(self, x: mx.array) -> mx.array:
        gate = self.gate_proj(x)
        wide = gate.astype(mx.float32)
        cut = wide.mean(axis=-1, keepdims=True) + self.deviations * wide.std(axis=-1, keepdims=True)
        gate = mx.maximum(gate - cut.astype(gate.dtype), 0)
        return self.down_proj(gated(gate, self.up_proj(x), self.act))


class Laurel(nn.Module):
    """x plus a normalized product of low rank (https://arxiv.org/abs/2411.07501)."""

    def __init__(self, hidden_size: int, rank: int, eps: float):
        super().__init__()
        self.linear_left = Linear(hidden_size, rank, bias=False)
        self.linear_right = Linear(rank, hidden_size, bias=False)
        self.post_laurel_norm = RMSNorm(hidden_size, eps)

    def __call__(self, x: mx.array) -> mx.array:
        return x + self.post_laurel_norm(self.linear_right(self.linear_left(x)))


class AltUp(nn.Module):
    """Predicts all streams from all, and corrects them by what the computed one became; streams (B, L, S, D)."""

    def __init__(self, hidden_size: int, streams: int, *, active: int, eps: float):
        super().__init__()
        self._active = active
        self.correct_output_scale = mx.zeros((hidden_size,))
        self.correction_coefs = Linear(streams, streams, bias=False)
        self.prediction_coefs = Linear(streams, streams**2, bias=False)
        self.modality_router = Linear(hidden_size, streams, bias=False)
        self.router_norm = RMSNorm(hidden_size, eps)

    def predict(self, streams: mx.array) -> mx.array:
        count = streams.shape[2]
        mixing = self.prediction_coefs(self._modalities(streams[:, :, self._active]))
        return mx.unflatten(mixing, -1, (count, count)) @ streams + streams

    def correct(self, streams: mx.array, computed: mx.array) -> mx.array:
        weights = self.correction_coefs(self._modalities(computed)) + 1
        return streams + weights[..., None] * (computed - streams[:, :, self._active])[:, :, None]

    def _modalities(self, x: mx.array) -> mx.array:
        routed = self.modality_router(self.router_norm(x) * x.shape[-1] ** -1.0)
        return mx.tanh(routed.astype(mx.float32)).astype(x.dtype)
