"""Arcee's Trinity: gated attention with windows, norms around both branches, sigmoid routing.

Source: https://www.arcee.ai/blog/the-trinity-manifesto.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import mlx.core as mx
from mlx import nn

from ..nn import Attention, AttentionOptions, LayerNames, Linear, MoE, Routing
from .dense import DenseModel, SlidingArgs
from .experts import gated_moe
from .granitemoe import Router
from .weights import expert_rules


@dataclass
class ModelArgs(SlidingArgs):
    aliases: ClassVar = {"global_attn_every_n_layers": "sliding_window_pattern"}
    head_dim: int | None = 128
    rms_norm_eps: float = field(default=1e-5, kw_only=True)
    max_position_embeddings: int = 16384
    attention_bias: bool = False
    sliding_window: int | None = 1024
    sliding_window_pattern: int | None = 4
    moe_intermediate_size: int = 1408
    num_dense_layers: int = 1
    num_experts: int = 64
    num_experts_per_tok: int = 6
    num_shared_experts: int = 2
    route_scale: float = 1.0
    mup_enabled: bool = False


class GatedAttention(Attention):
    """The output's sigmoid gate has a projection of its own."""

    def __init__(self, options: AttentionOptions):
        super().__init__(options)
        self.gate_proj = Linear(options.hidden_size, options.num_heads * options.head_dim, bias=False)

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array | None]:
        queries, keys, values, _ = super()._project(x)
        return queries, keys, values, self.gate_proj(x)


class Experts(MoE):
    router_name, experts_name = "router", "experts"
    correction_on_router, correction_name = False, "expert_bias"


class Model(DenseModel):
    layer_names = LayerNames(
        post_mixer="post_attention_layernorm",
        pre_feed_forward="pre_mlp_layernorm",
        post_feed_forward="post_mlp_layernorm",
    )
    attention_type = GatedAttention
    rope_where_sliding = True
    qk_norm = True
    rules = expert_rules(target="experts")

    @classmethod
    def feed_forward(cls, args: Any, index: int) -> nn.Module:
        if index < args.num_dense_layers:
            return super().feed_forward(args, index)
        routing = Routing(args.num_experts_per_tok, "sigmoid", scale=args.route_scale, epsilon=1e-20)
        shared = args.moe_intermediate_size * args.num_shared_experts
        moe = gated_moe(args, routing, Experts, correction=True, shared=shared)
        moe.router = Router(args.hidden_size, args.num_experts, "gate")
        return moe

    @staticmethod
    def embed_scale(args: Any) -> float:
        return args.hidden_size**0.5 if args.mup_enabled else 1.0
