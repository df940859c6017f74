"""Poolside's Laguna: softplus gates for each head, head counts for each layer, sigmoid routing.

Source: https://huggingface.co/poolside.
"""

from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import GatedAttention, Routing, named
from .parts import DenseModel, Drop, Rename, TwoRopeArgs, expert_rules, gated_moe, refuse
from .qwen2_moe import Experts

_ROPES = {
    "full_attention": {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
}


class LayerTypeArgs(TwoRopeArgs):
    """`layer_types` (all full without) and `mlp_layer_types`, and a rope for each layer type."""

    attention_bias: bool = False
    mlp_layer_types: list[str] | None = None
    partial_rotary_factor: float = 1.0

    def slides(self, index: int) -> bool:
        return False


class ModelArgs(LayerTypeArgs):
    fixed = {"moe_apply_router_weight_on_input": (False,), "gating": (True, "per-head", "per-element")}
    positive = ("num_attention_heads_per_layer",)
    per_layer = {"num_attention_heads_per_layer": ()}
    head_dim: int | None = 128
    max_position_embeddings: int = 131072
    sliding_window: int | None = 512
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
        wrong = [heads for heads in self.num_attention_heads_per_layer or () if heads % self.heads[1]]
        refuse(wrong, f"num_attention_heads_per_layer has {wrong}, no multiples of num_key_value_heads")

    def layer_heads(self, index: int) -> tuple[int, int, int]:
        listed = self.num_attention_heads_per_layer
        return self.heads if listed is None else (listed[index], *self.heads[1:])


class SoftplusGates(GatedAttention):
    """A softplus gate for each feature."""

    gate_name = "g_proj"

    def _gated(self, out: mx.array, gate: mx.array) -> mx.array:
        return out * mx.logaddexp(gate.astype(mx.float32), 0).astype(out.dtype)


class Model(DenseModel):
    qk_norm = True
    rules = (
        Drop(r"^mtp\."),
        Rename(r"\.mlp\.experts\.e_score_correction_bias$", ".mlp.gate.e_score_correction_bias"),
        Rename(r"\.mlp\.shared_experts\.", ".mlp.shared_expert."),
        *expert_rules(),
    )

    def mixer(self, args: Any, index: int) -> nn.Module:
        kind = named(SoftplusGates, per_head=args.gating != "per-element")
        return kind(self.attention_options(args, index))

    def experts(self, args: Any) -> nn.Module:
        scale, softcap = args.moe_routed_scaling_factor, max(args.moe_router_logit_softcapping, 0)
        routing = Routing(args.num_experts_per_tok, "sigmoid", scale=scale, softcap=softcap)
        return gated_moe(args, routing, Experts, correction=True)
