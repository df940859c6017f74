"""Mixture-of-experts feed-forward: a router, experts kept stacked, and experts that every token visits.

Sources: https://arxiv.org/abs/2101.03961 (Switch), https://arxiv.org/abs/2412.19437 (sigmoid routing with a
correction bias and groups).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from .linear import Linear, SwitchLinear
from .mlp import GatedActivation, checked_width, gated

__all__ = ["MoE", "NestedRouter", "Routing", "SwitchGLU", "SwitchMLP", "in_expert_order", "route", "score_experts"]


@dataclass(frozen=True)
class Routing:
    """How a token picks its experts.

    Attributes:
        top_k: experts a token visits.
        score: "softmax" over all logits, "softmax_topk" or "sigmoid_topk" over the chosen logits, "sigmoid" or
            "sqrtsoftplus".
        normalize: chosen weights are divided by their sum (plus `epsilon`).
        scale: factor on the weights at the end.
        num_groups, top_groups: experts in groups, of which the best `top_groups` take part.
        group_score: a group's rank is its best score ("max") or the sum of its two best ("top2").
        factor: on the logits, which `softcap` c then replaces by c*tanh(logit/c).
    """

    top_k: int
    score: str = "softmax"
    normalize: bool = True
    scale: float = 1.0
    num_groups: int = 1
    top_groups: int = 1
    group_score: str = "max"
    epsilon: float = 0.0
    factor: float = 1.0
    softcap: float = 0.0


def route(logits: mx.array, routing: Routing, correction: mx.array | None = None) -> tuple[mx.array, mx.array]:
    """Indices and weights (..., top_k) from router logits (..., E), computed in float32.

    `correction` (E,) is added to the scores for the choice only, not for the weights.
    """
    scores = score_experts(logits, routing)
    choice = scores if correction is None else scores + correction
    if routing.num_groups > 1 and routing.top_groups < routing.num_groups:
        choice = _mask_groups(choice, routing)
    k = routing.top_k
    indices = mx.argpartition(-choice, kth=k - 1, axis=-1)[..., :k] if k < choice.shape[-1] else _all(choice)
    indices = mx.stop_gradient(indices)  # a choice has no slope, and MLX refuses to look for one
    weights = mx.take_along_axis(scores, indices, axis=-1)
    if routing.score == "sigmoid_topk":
        weights = mx.sigmoid(weights)
    if routing.score == "softmax_topk":
        weights = mx.softmax(weights, axis=-1, precise=True)
    elif routing.normalize:
        weights = weights / (weights.sum(axis=-1, keepdims=True) + routing.epsilon)
    return indices, weights * routing.scale if routing.scale != 1.0 else weights


def score_experts(logits: mx.array, routing: Routing) -> mx.array:
    """Scores (..., E), float32; those of "softmax_topk" and "sigmoid_topk" are the logits."""
    logits = logits.astype(mx.float32)
    logits = logits if routing.factor == 1.0 else logits * routing.factor
    if routing.softcap:
        logits = routing.softcap * mx.tanh(logits / routing.softcap)
    if routing.score == "sigmoid":
        return mx.sigmoid(logits)
    if routing.score == "softmax":
        return mx.softmax(logits, axis=-1, precise=True)
    return mx.sqrt(nn.softplus(logits)) if routing.score == "sqrtsoftplus" else logits


def _all(choice: mx.array) -> mx.array:
    return mx.broadcast_to(mx.arange(choice.shape[-1], dtype=mx.uint32), choice.shape)


def _mask_groups(choice: mx.array, routing: Routing) -> mx.array:
    grouped = mx.unflatten(choice, -1, (routing.num_groups, -1))  # (..., G, E/G)
    rank = grouped.max(axis=-1) if routing.group_score == "max" else mx.topk(grouped, 2, axis=-1).sum(axis=-1)
    drop = routing.num_groups - routing.top_groups
    losers = mx.stop_gradient(mx.argpartition(rank, kth=drop - 1, axis=-1)[..., :drop])
    grouped = mx.put_along_axis(grouped, losers[..., None], mx.array(-mx.inf, grouped.dtype), axis=-2)
    return grouped.flatten(-2)


def in_expert_order(experts: Callable[..., mx.array], x: mx.array, indices: mx.array) -> mx.array:
    """Runs experts on x (N, D) with indices (N, k) -> (N, k, D); they take x, indices and whether these are in order.

    Many tokens are sorted by expert, so that each expert's weights are read once.
    """
    indices = mx.stop_gradient(indices)
    if indices.size >= 64:
        order = mx.argsort(indices.flatten())
        x = x[order // indices.shape[-1]][:, None]  # (N*k, 1, D)
        y = experts(x, indices.flatten()[order], True)[:, 0]
        return y[mx.argsort(order)].reshape(*indices.shape, -1)
    return experts(x[:, None, None], indices, False)[:, :, 0]


class SwitchGLU(nn.Module):
    """Stacked gated experts: x (N, D), indices (N, k) -> (N, k, D)."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        num_experts: int,
        *,
        act: GatedActivation = "silu",
        bias: bool = False,
    ):
        super().__init__()
        checked_width(intermediate_size)
        self.act = act
        self.gate_proj = SwitchLinear(hidden_size, intermediate_size, num_experts, bias=bias)
        self.up_proj = SwitchLinear(hidden_size, intermediate_size, num_experts, bias=bias)
        self.down_proj = SwitchLinear(intermediate_size, hidden_size, num_experts, bias=bias)

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        return in_expert_order(self._experts, x, indices)

    def _experts(self, x: mx.array, indices: mx.array, in_order: bool) -> mx.array:
        gate, up = self.gate_proj(x, indices, in_order), self.up_proj(x, indices, in_order)
        return self.down_proj(gated(gate, up, self.act), indices, in_order)


class SwitchMLP(nn.Module):
    """Stacked experts without a gate: x (N, D), indices (N, k) -> (N, k, D)."""

    def __init__(self, hidden_size: int, intermediate_size: int, num_experts: int, *, act: str, bias: bool = False):
        super().__init__()
        self.act = act
        self.fc1 = SwitchLinear(hidden_size, intermediate_size, num_experts, bias=bias)
        self.fc2 = SwitchLinear(intermediate_size, hidden_size, num_experts, bias=bias)

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        return in_expert_order(self._experts, x, indices)

    def _experts(self, x: mx.array, indices: mx.array, in_order: bool) -> mx.array:
        return self.fc2(kernels.activation(self.fc1(x, indices, in_order), self.act), indices, in_order)


class Router(Linear):
    """A linear layer that keeps what stands beside its weight (the selection bias) when the weight is packed."""

    def to_quantized(self, *args: Any, **options: Any) -> nn.Module:
        packed = super().to_quantized(*args, **options)
        for name in self.keys() - {"weight", "bias"}:
            packed[name] = self[name]
        return packed


class NestedRouter(nn.Module):
    """A router's linear layer, one name further down; the selection bias stands beside it."""

    def __init__(self, hidden_size: int, num_experts: int, name: str, *, bias: bool = False):
        super().__init__()
        self._name = name
        self[name] = Linear(hidden_size, num_experts, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        return self[self._name](x)


class MoE(nn.Module):
    """Router, stacked experts, and optionally shared experts with or without a gate. x (B, L, D) -> (B, L, D).

    `correction_name` makes the selection bias a parameter beside the router's weight: "gate.NAME".
    """

    router_name = "gate"
    router_layer: str | None = None  # the router's linear layer, where it has a name of its own
    experts_name = "switch_mlp"
    shared_name = "shared_experts"
    correction_on_router = True  # else the selection bias is the block's own parameter
    correction_name = "e_score_correction_bias"

    def __init__(
        self,
        hidden_size: int,
        num_experts: int,
        routing: Routing,
        experts: nn.Module,
        *,
        router_bias: bool = False,
        correction: bool = False,
        shared: nn.Module | None = None,
        shared_gate: bool = False,
    ):
        super().__init__()
        self.routing = routing
        sizes, layer = (hidden_size, num_experts), self.router_layer
        router = NestedRouter(*sizes, layer, bias=router_bias) if layer else Router(*sizes, bias=router_bias)
        self[self.router_name] = router
        if correction:
            self._corrected()[self.correction_name] = mx.zeros((num_experts,))
        self[self.experts_name] = experts
        if shared is not None:
            self[self.shared_name] = shared
            if shared_gate:
                self.shared_expert_gate = Linear(hidden_size, 1, bias=False)

    def choose(self, logits: mx.array) -> tuple[mx.array, mx.array]:
        """Indices and weights (N, k) of each token's experts, from the router's logits (N, E)."""
        return route(logits, self.routing, self._corrected().get(self.correction_name))

    def _corrected(self) -> nn.Module:
        """The module that has the selection bias."""
        return self[self.router_name] if self.correction_on_router else self

    def __call__(self, x: mx.array) -> mx.array:
        flat = x.reshape(-1, x.shape[-1])
        indices, weights = self.choose(self[self.router_name](flat))
        y = self._visit(flat, indices, weights)
        if self.shared_name in self:
            shared = self[self.shared_name](flat)
            if "shared_expert_gate" in self:
                shared = shared * mx.sigmoid(self.shared_expert_gate(flat))
            y = y + shared
        return y.reshape(x.shape)

    def _visit(self, flat: mx.array, indices: mx.array, weights: mx.array) -> mx.array:
        """The weighted sum of the chosen experts: flat (N, D), indices and weights (N, k) -> (N, D)."""
        y = self[self.experts_name](flat, indices)
        return (y * weights[..., None].astype(y.dtype)).sum(axis=-2)
