"""Decoders with experts."""

from __future__ import annotations

from .. import experts, experts_more, phi
from .case import Case, named, tiny

__all__ = ["CASES", "LING", "LING_GROUPS"]

# Ant's experts, alike in the dense and in the linear families.
LING = {
    "num_experts": 4,
    "num_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 0,
    "norm_topk_prob": True,
    "use_bias": False,
    "use_qkv_bias": False,
}

# Groups of experts, and scores of a sigmoid that a learned bias corrects when experts are chosen.
LING_GROUPS = {
    **LING,
    "num_experts": 6,
    "first_k_dense_replace": 1,
    "use_qk_norm": True,
    "partial_rotary_factor": 0.5,
    "score_function": "sigmoid",
    "moe_router_enable_expert_bias": True,
    "n_group": 3,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
}

CASES = {
    "deepseek": Case(
        tiny(
            "deepseek",
            n_routed_experts=4,
            n_shared_experts=2,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            first_k_dense_replace=1,
            norm_topk_prob=False,
            scoring_func="softmax",
        ),
        experts.deepseek,
    ),
    "Klear": Case(
        tiny(
            "Klear",
            attention_bias=False,
            mlp_only_layers=[0],
            num_experts=4,
            num_experts_per_tok=2,
            decoder_sparse_step=1,
            n_shared_experts=1,
            moe_intermediate_size=16,
            norm_topk_prob=True,
        ),
        experts.klear,
    ),
    "bailing_moe": Case(tiny("bailing_moe", **LING), experts.bailing_moe),
    "bailing_moe/second": Case(tiny("bailing_moe", **LING_GROUPS), experts.bailing_moe),
    "phixtral": Case(
        named(
            "phixtral",
            n_embd=32,
            n_head=4,
            n_layer=2,
            n_positions=64,
            n_inner=None,
            n_head_kv=None,
            activation_function="gelu_new",
            layer_norm_epsilon=1e-5,
            rotary_dim=4,
            num_local_experts=4,
            num_experts_per_tok=2,
            tie_word_embeddings=False,
        ),
        phi.phixtral,
    ),
    "hunyuan": Case(
        tiny(
            "hunyuan",
            num_hidden_layers=4,
            tie_word_embeddings=True,
            num_experts=4,
            moe_topk=1,
            num_shared_expert=1,
            use_mixed_mlp_moe=True,
            use_qk_norm=True,
            use_cla=True,
            cla_share_factor=2,
            kv_lora_rank=512,
            rope_scaling={"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
        ),
        experts_more.hunyuan,
    ),
    "hunyuan/lists": Case(
        tiny(
            "hunyuan",
            num_hidden_layers=3,
            tie_word_embeddings=True,
            attention_head_dim=16,
            num_experts=4,
            moe_topk=[1, 2, 3],
            moe_intermediate_size=[16, 24, 32],
            moe_layer_num_skipped=1,
            num_shared_expert=[1, 2, 1],
            use_mixed_mlp_moe=True,
            use_qk_norm=False,
            use_cla=True,
            cla_share_factor=3,
        ),
        experts_more.hunyuan,
    ),
    "hunyuan/dense": Case(
        tiny("hunyuan", tie_word_embeddings=True, num_experts=1, moe_topk=1, use_qk_norm=True), experts_more.hunyuan
    ),
    "step3p5": Case(
        tiny(
            "step3p5",
            num_hidden_layers=4,
            rope_theta=[5000000.0, 10000.0, 10000.0, 5000000.0, 10000.0],
            num_attention_groups=2,
            head_dim=16,
            layer_types=[f"{kind}_attention" for kind in ("full", "sliding", "sliding", "full", "sliding")],
            sliding_window=5,
            attention_other_setting={
                "attention_type": "sliding_attention",
                "num_attention_heads": 6,
                "num_attention_groups": 3,
                "head_dim": 16,
            },
            partial_rotary_factors=[0.5, 1.0, 1.0, 0.5, 1.0],
            yarn_only_types=["full_attention"],
            rope_scaling={
                "rope_type": "llama3",
                "factor": 2.0,
                "original_max_position_embeddings": 32,
                "low_freq_factor": 1.0,
                "high_freq_factor": 32.0,
            },
            use_head_wise_attn_gate=True,
            use_rope_layers=[],
            moe_layers_enum="1,2,3",
            moe_num_experts=4,
            moe_top_k=2,
            moe_intermediate_size=16,
            share_expert_dim=24,
            moe_router_activation="sigmoid",
            moe_router_scaling_factor=3.0,
            use_moe_router_bias=True,
            norm_expert_weight=True,
            swiglu_limits=[0.0, 0.0, 0.3, 0.5, 0.0],
            swiglu_limits_shared=[0.0, 0.4, 0.0, 0.6, 0.0],
        ),
        experts_more.step3p5,
    ),
}
