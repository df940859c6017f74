"""Experts that a table lists for each token id, and feed-forwards whose parts are limited before they are multiplied.

Sources: https://arxiv.org/abs/2106.04426 (hash layers), DeepSeek-V4's report.
"""

from functools import partial

import mlx.core as mx

from .. import kernels
from .mlp import GatedMLP
from .moe import MoE, Routing, SwitchGLU, score_experts

__all__ = ["HashedMoE", "limited"]


def limited(gate: mx.array, up: mx.array, *, act: str, limit: float) -> mx.array:
    """act(gate) * up, with `gate` at most `limit` and `up` within +-`limit`."""
    return kernels.gated_activation(mx.minimum(gate, limit), mx.clip(up, -limit, limit), act)


class HashedMoE(MoE):
    """`tid2eid`, where a layer has one, lists the experts of each token id."""

    def __init__(
        self, hidden_size: int, size: int, num_experts: int, routing: Routing, *, act: str, limit: float, ids: int = 0
    ):
        """`ids` is the number of token ids in the table, 0 for a layer that routes by scores."""
        within = partial(limited, act=act, limit=limit)
        experts, shared = SwitchGLU(hidden_size, size, num_experts, act=within), GatedMLP(hidden_size, size, within)
        super().__init__(hidden_size, num_experts, routing, experts, correction=not ids, shared=shared)
        if ids:
            self.gate.tid2eid = mx.zeros((ids, routing.top_k), mx.int32)
            self.gate.freeze(keys=["tid2eid"], recurse=False)

    def at(self, x: mx.array, ids: mx.array) -> mx.array:
        """x (B, L, D) of tokens `ids` (B, L) -> (B, L, D)."""
        table = self.gate.get("tid2eid")
        if table is None:
            return self(x)
        flat = x.reshape(-1, x.shape[-1])
        indices = table[ids.reshape(-1)]
        weights = mx.take_along_axis(score_experts(self.gate(flat), self.routing), indices, axis=-1)
        weights = weights / (weights.sum(axis=-1, keepdims=True) + self.routing.epsilon) * self.routing.scale
        return (self._visit(flat, indices, weights) + self.shared_experts(flat)).reshape(x.shape)
