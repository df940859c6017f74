"""Arcee's Trinity: gated attention with windows, norms around both branches, sigmoid routing.

Source: https://www.arcee.ai/blog/the-trinity-manifesto.
"""

from ..nn import GatedAttention, LayerNames, MoE
from .parts import DenseModel, SlidingArgs, expert_rules


class ModelArgs(SlidingArgs):
    aliases = {
        "global_attn_every_n_layers": "sliding_window_pattern", "num_dense_layers": "first_k_dense_replace",
    }  # fmt: skip
    head_dim: int | None = 128
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 16384
    attention_bias: bool = False
    sliding_window: int | None = 1024
    sliding_window_pattern: int | None = 4
    moe_intermediate_size: int = 1408
    first_k_dense_replace: int = 1
    num_experts: int = 64
    num_experts_per_tok: int = 6
    num_shared_experts: int = 2
    route_scale: float = 1.0
    mup_enabled: bool = False


class Experts(MoE):
    router_name, router_layer, experts_name = "router", "gate", "experts"
    correction_on_router, correction_name = False, "expert_bias"


class Model(DenseModel):
    layer_names = LayerNames(
        post_mixer="post_attention_layernorm",
        pre_feed_forward="pre_mlp_layernorm",
        post_feed_forward="post_mlp_layernorm",
    )
    attention_type = GatedAttention
    moe_type = Experts
    moe_options = {"correction": True}
    routing_options = {"score": "sigmoid", "epsilon": 1e-20}
    rope_where_sliding = True
    scaled_embedding = "mup_enabled"
    qk_norm = True
    rules = expert_rules(target="experts")
