"""Ling and Ling 2: experts routed by softmax, or by sigmoid in groups. https://arxiv.org/abs/2503.05139."""

from typing import Any

import mlx.core as mx

from ..nn import Attention, LayerNames, MoE, Routing, named
from .base import ModelNames
from .config import BiasArgs, GroupedArgs
from .dense import DenseModel
from .experts import usual_routing
from .weights import Drop, Rename, Weights, expert_rules


class ModelArgs(GroupedArgs, BiasArgs):
    fixed = {"norm_softmax": (False,), "score_function": ("softmax", "sigmoid")}
    aliases = {"use_bias": "attention_out_bias", "use_qkv_bias": "attention_bias"}
    attention_out_bias: bool = False
    num_experts: int = 0
    num_shared_experts: int = 0
    num_experts_per_tok: int = 1
    moe_intermediate_size: int = 0
    moe_shared_expert_intermediate_size: int | None = None
    moe_router_enable_shared_expert: bool = True
    moe_router_enable_expert_bias: bool = False
    moe_router_enable_routed_scaling: bool = True
    first_k_dense_replace: int = 0
    norm_head: bool = False
    use_qk_norm: bool = False
    partial_rotary_factor: float = 1.0
    rotary_dim: int | None = None
    score_function: str = "softmax"

    @property
    def use_bias(self) -> bool:
        """Of feed-forwards."""
        return self.attention_out_bias

    @property
    def shared_size(self) -> int | None:
        """Of the experts that every token visits, as `gated_moe` takes it."""
        return None if self.moe_router_enable_shared_expert else 0


class FusedAttention(Attention):
    qkv_name, out_name = "query_key_value", "dense"
    q_norm_name, k_norm_name = "query_layernorm", "key_layernorm"


def unit_head(weights: Weights) -> Weights:
    """The output head's rows, each of length 1; a packed head is left alone."""
    name = "lm_head.weight"
    if name not in weights or "lm_head.scales" in weights:
        return weights
    head = weights[name].astype(mx.float32)
    unit = head / (mx.linalg.norm(head, axis=-1, keepdims=True) + 1e-7)
    return {**weights, name: unit.astype(weights[name].dtype)}


class Model(DenseModel):
    names = ModelNames(embed="word_embeddings")
    layer_names = LayerNames("attention")
    attention_type = FusedAttention
    next_token_layers = True
    qk_norm = "use_qk_norm"
    moe_type = named(MoE, router_layer="gate_proj", correction_name="expert_bias")
    moe_options = {"correction": "moe_router_enable_expert_bias", "shared": "shared_size"}
    attention = {"fused": True}
    rules = (Drop(r"(^|\.)mtp\."), Rename(r"\.mlp\.gate\.weight$", ".mlp.gate.gate_proj.weight"), *expert_rules())

    def routing(self, args: Any) -> Routing:
        return usual_routing(
            args,
            score=args.score_function,
            normalize=args.norm_topk_prob and args.num_experts_per_tok > 1,
            scale=args.routed_scaling_factor if args.moe_router_enable_routed_scaling else 1.0,
        )
