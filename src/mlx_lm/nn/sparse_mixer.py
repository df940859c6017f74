"""Routing to two experts that are chosen one after the other. Source: SparseMixer-v2, https://arxiv.org/abs/2409.12136."""

import mlx.core as mx
import mlx.nn as nn

from .moe import MoE, Routing

__all__ = ["SparseMixer"]


class SparseMixer(MoE):
    """The best expert, then the best of the rest; each weight is a softmax over those within 2 * `jitter` of it."""

    def __init__(self, hidden_size: int, num_experts: int, experts: nn.Module, *, jitter: float):
        super().__init__(hidden_size, num_experts, Routing(2), experts)
        self.jitter = jitter

    def choose(self, logits: mx.array) -> tuple[mx.array, mx.array]:
        logits = logits.astype(mx.float32)
        first, weight = self._best(logits, logits)
        rest = mx.put_along_axis(logits, first, mx.array(-mx.inf), axis=-1)
        second, other = self._best(rest, logits)
        return mx.concatenate([first, second], axis=-1), mx.concatenate([weight, other], axis=-1)

    def _best(self, scores: mx.array, logits: mx.array) -> tuple[mx.array, mx.array]:
        index = mx.stop_gradient(mx.argmax(scores, axis=-1, keepdims=True))
        best = mx.max(scores, axis=-1, keepdims=True)
        far = (best - logits) / mx.maximum(mx.abs(logits), best) > 2 * self.jitter
        weights = mx.softmax(mx.where(far, -mx.inf, scores), axis=-1)
        return index, mx.take_along_axis(weights, index, axis=-1)
