"""Poolside's Laguna: softplus gates for each head, head counts for each layer, sigmoid routing.

Source: https://huggingface.co/poolside.
"""

from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import Attention, Linear, Routing
from .config import refuse
from .dense import DenseModel, TwoRopeArgs
from .experts import gated_moe
from .qwen2_moe import Experts
from .weights import Drop, Rename, expert_rules

_ROPES = {
    "full_attention": {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
}


class LayerTypeArgs(TwoRopeArgs):
    """`layer_types` (all full without) and `mlp_layer_types`, and a rope for each layer type."""

    mlp_layer_types: list[str] | None = None
    partial_rotary_factor: float = 1.0

    def __post_init__(self) -> None:
        self.layer_types = self.layer_types or ["full_attention"] * self.num_hidden_layers
        super().__post_init__()


class ModelArgs(LayerTypeArgs):
    fixed = {"moe_apply_router_weight_on_input": (False,), "gating": (True, "per-head", "per-element")}
    positive = ("num_attention_heads_per_layer",)
    per_layer = {"num_attention_heads_per_layer": ()}
    head_dim: int | None = 128
    max_position_embeddings: int = 131072
    sliding_window: int | None = 512
    attention_bias: bool = False
    gating: bool | str = True
    num_attention_heads_per_layer: list[int] | None = None
    num_experts: int = 256
    num_experts_per_tok: int = 8
    moe_intermediate_size: int = 512
    shared_expert_intermediate_size: int = 512
    moe_routed_scaling_factor: float = 1.0
    moe_router_logit_softcapping: float = 0.0

    def __post_init__(self) -> None:
        self.mlp_layer_types = self.mlp_layer_types or ["dense"] + ["sparse"] * (self.num_hidden_layers - 1)
        super().__post_init__()
        self.rope_by_layer_type = self.rope_by_layer_type or _ROPES
        heads = self.num_attention_heads_per_layer or [self.num_attention_heads] * self.num_hidden_layers
        self.num_attention_heads_per_layer = heads
        refuse(
            any(n % self.heads[1] for n in heads), f"num_attention_heads_per_layer={heads} does not fit the KV heads"
        )

    def layer_heads(self, index: int) -> tuple[int, int, int]:
        assert self.num_attention_heads_per_layer is not None
        return self.num_attention_heads_per_layer[index], *self.heads[1:]


class SoftplusGates(Attention):
    """A softplus gate for each head, or for each feature."""

    def add(self, args: Any, index: int) -> None:
        self.gates = self._options.num_heads * (self._options.head_dim if args.gating == "per-element" else 1)
        self.g_proj = Linear(args.hidden_size, self.gates, bias=False)

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array | None]:
        queries, keys, values, _ = super()._project(x)
        gate = mx.logaddexp(self.g_proj(x).astype(mx.float32), 0).astype(x.dtype)
        size = self._options.num_heads * self._options.head_dim
        return queries, keys, values, mx.repeat(gate, size // self.gates, axis=-1)

    def _gated(self, out: mx.array, gate: mx.array) -> mx.array:
        return out * gate


class Model(DenseModel):
    attention_type = SoftplusGates
    qk_norm = True
    rules = (
        Drop(r"^mtp\."),
        Rename(r"\.mlp\.experts\.e_score_correction_bias$", ".mlp.gate.e_score_correction_bias"),
        Rename(r"\.mlp\.shared_experts\.", ".mlp.shared_expert."),
        *expert_rules(),
    )

    def experts(self, args: Any) -> nn.Module:
        scale, softcap = args.moe_routed_scaling_factor, max(args.moe_router_logit_softcapping, 0)
        routing = Routing(args.num_experts_per_tok, "sigmoid", scale=scale, softcap=softcap)
        return gated_moe(args, routing, Experts, correction=True)
