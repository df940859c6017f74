"""Kolibri 1: norms around both branches, full layers without rope, experts chosen by corrected logits.

Source: https://huggingface.co/docs/transformers/model_doc/kolibri1.
"""

from ..nn import LayerNames
from .parts import DenseModel, Rename, SlidingArgs, expert_rules, rename_parts


class ModelArgs(SlidingArgs):
    head_dim: int | None = 128
    max_position_embeddings: int = 262144
    sliding_window: int | None = 513
    sliding_window_pattern: int | None = 5
    moe_intermediate_size: int = 512
    shared_expert_intermediate_size: int = 512
    num_experts: int = 384
    num_experts_per_tok: int = 6
    norm_topk_prob: bool = False


class Model(DenseModel):
    layer_names = LayerNames(post_mixer="post_attn_norm", post_feed_forward="post_ffn_norm")
    qk_norm = rope_unless_sliding = True
    moe_options = {"correction": True}
    routing_options = {"score": "sigmoid_topk"}
    rules = (
        Rename(r"\.moe\.router\.expert_bias$", ".mlp.gate.e_score_correction_bias"),
        *rename_parts({"post_self_attn_layernorm": "post_attn_norm", "post_mlp_layernorm": "post_ffn_norm"}),
        *expert_rules(),
    )
