"""More mixture-of-experts families."""

from __future__ import annotations

from .dense import WIDE
from .spec import DROP, HIDDEN, TINY, Family, Shape

__all__ = ["FAMILIES", "LATENT"]

LATENT = {
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
"""Latent attention with a low-rank query."""

_WIDE_LATENT = {
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 32,
    "num_hidden_layers": 1,
}
_DEEPSEEK_MOE = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
    "n_group": 2,
    "topk_group": 1,
    "norm_topk_prob": True,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "beta_fast": 16.0,
    "beta_slow": 1.0,
    "mscale": 0.7,
    "mscale_all_dim": 1.3,
    "original_max_position_embeddings": 64,
}
_GATES = {r"\.(gate|router)\.(weight|wg)": 2.0, "e_score_correction_bias": 2.0}
_ONE_EXPERT_LAYER = {"num_hidden_layers": 1, "first_k_dense_replace": 0}


def _deepseek_mtp(layer: int, experts: int) -> dict[str, Shape]:
    """The multi-token-prediction layer that DeepSeek V3 publishes after the last layer."""
    at = f"model.layers.{layer}."
    shapes: dict[str, Shape] = {
        f"{at}embed_tokens.weight": (32, HIDDEN),
        f"{at}enorm.weight": (HIDDEN,),
        f"{at}hnorm.weight": (HIDDEN,),
        f"{at}eh_proj.weight": (HIDDEN, 2 * HIDDEN),
        f"{at}shared_head.norm.weight": (HIDDEN,),
        f"{at}shared_head.head.weight": (32, HIDDEN),
        f"{at}input_layernorm.weight": (HIDDEN,),
        f"{at}post_attention_layernorm.weight": (HIDDEN,),
        f"{at}self_attn.q_a_proj.weight": (32, HIDDEN),
        f"{at}self_attn.q_a_layernorm.weight": (32,),
        f"{at}self_attn.q_b_proj.weight": (48, 32),
        f"{at}self_attn.kv_a_proj_with_mqa.weight": (40, HIDDEN),
        f"{at}self_attn.kv_a_layernorm.weight": (32,),
        f"{at}self_attn.kv_b_proj.weight": (64, 32),
        f"{at}self_attn.o_proj.weight": (HIDDEN, 32),
        f"{at}mlp.gate.weight": (experts, HIDDEN),
        f"{at}mlp.gate.e_score_correction_bias": (experts,),
    }
    for prefix in [f"experts.{i}" for i in range(experts)] + ["shared_experts"]:
        shapes |= {f"{at}mlp.{prefix}.{name}_proj.weight": (32, 32) for name in ("gate", "up", "down")}
    return shapes


FAMILIES = (
    Family(
        "deepseek_v3",
        {**TINY, **LATENT, **_DEEPSEEK_MOE},
        {
            "base": {},
            "mtp": {"_hub": {"num_nextn_predict_layers": 1}},
            "yarn": {"rope_parameters": _YARN},
            "plain": {"rope_interleave": False, "norm_topk_prob": False, "n_group": 1, "q_lora_rank": None},
            "wide_bias": {**_WIDE_LATENT, "attention_bias": True, "first_k_dense_replace": 1},
        },
        hub={
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "moe_layer_freq": 1,
            "qk_head_dim": DROP,
            "head_dim": DROP,
            "num_mtp_layers": DROP,
        },
        extra={"mtp": _deepseek_mtp(2, 4)},
        inert=("mtp",),
        gain=_GATES,
    ),
    Family(
        "glm4_moe",
        {**TINY, **_DEEPSEEK_MOE, "head_dim": 8, "use_qk_norm": True},
        {
            "base": {},
            "no_qk_norm": {**_ONE_EXPERT_LAYER, "use_qk_norm": False, "attention_bias": True, "n_group": 1},
            "raw_probs": {"norm_topk_prob": False},
            "wide": {**WIDE, "first_k_dense_replace": 1, "tie_word_embeddings": True},
        },
        gain=_GATES,
    ),
    Family(
        "glm4_moe_lite",
        {**TINY, **LATENT, **{k: v for k, v in _DEEPSEEK_MOE.items() if k != "first_k_dense_replace"}},
        {
            "base": {"_hub": {"mlp_layer_types": DROP, "first_k_dense_replace": 1}},
            "sparse": {"mlp_layer_types": ["sparse"], "num_hidden_layers": 1, "q_lora_rank": None, "n_group": 1},
            "wide_bias": {**_WIDE_LATENT, "attention_bias": True},
        },
        gain=_GATES,
    ),
    Family(
        "dots1",
        {**TINY, **_DEEPSEEK_MOE, "head_dim": 8, "sliding_window": None},
        {
            "base": {},
            "window": {"sliding_window": 7, "max_window_layers": 1, "norm_topk_prob": False},
            "bias_wide": {**WIDE, "attention_bias": True, "tie_word_embeddings": True},
        },
        gain=_GATES,
    ),
    Family(
        "minimax_m2",
        {
            **TINY,
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000000.0, "partial_rotary_factor": 0.5},
        },
        {
            "base": {
                "num_hidden_layers": 1,
                "_hub": {"partial_rotary_factor": DROP, "rotary_dim": 4, "scoring_func": "sigmoid"},
            },
            "wide": {**WIDE, "num_local_experts": 2, "num_experts_per_tok": 1, "tie_word_embeddings": True},
        },
        hub={"use_qk_norm": True, "qk_norm_type": "per_layer", "use_routing_bias": True},
        gain=_GATES,
    ),
    Family(
        "qwen2_moe",
        {
            **TINY,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 64,
            "decoder_sparse_step": 2,
            "norm_topk_prob": False,
        },
        {
            "base": {"_hub": {"layer_types": DROP}},
            "normed": {"norm_topk_prob": True},
            "window": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
            "no_bias_wide": {
                "qkv_bias": False,
                "hidden_size": 64,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "num_hidden_layers": 1,
                "tie_word_embeddings": True,
            },
        },
        gain=_GATES,
    ),
    Family(
        "olmoe",
        {**TINY, "num_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 1},
        {
            "base": {},
            "normed": {"norm_topk_prob": True},
            "clip": {"clip_qkv": 0.7},
            "bias": {"attention_bias": True, "num_experts": 2, "num_experts_per_tok": 1, "tie_word_embeddings": True},
        },
        gain=_GATES,
    ),
    Family(
        "flex_olmo",
        {**TINY, "num_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 1},
        {
            "base": {},
            "bias": {"attention_bias": True, "norm_topk_prob": True, "num_experts": 2, "num_experts_per_tok": 1},
        },
        gain=_GATES,
    ),
    Family(
        "phimoe",
        {
            **TINY,
            "head_dim": DROP,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 1,
            "router_jitter_noise": 0.3,
            "input_jitter_noise": 0.0,
        },
        {
            "base": {},
            "bias_window": {"attention_bias": True, "lm_head_bias": True, "sliding_window": 7},
            "longrope": {
                "max_position_embeddings": 64,
                "original_max_position_embeddings": 16,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "original_max_position_embeddings": 16,
                    "short_factor": [1.0, 1.5, 2.0, 2.5],
                    "long_factor": [2.0, 4.0, 8.0, 9.0],
                    "short_mscale": 1.2,
                    "long_mscale": 1.3,
                },
                "_hub": {
                    "rope_scaling": {
                        "type": "longrope",
                        "original_max_position_embeddings": 16,
                        "short_factor": [1.0, 1.5, 2.0, 2.5],
                        "long_factor": [2.0, 4.0, 8.0, 9.0],
                        "short_mscale": 1.2,
                        "long_mscale": 1.3,
                    }
                },
                "_path_dependent": "longrope",
            },
        },
        gain=_GATES,
    ),
    Family(
        "ernie4_5_moe",
        {
            **TINY,
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": 32,
            "moe_num_shared_experts": 1,
            "moe_layer_start_index": 1,
        },
        {
            "base": {},
            "bias": {
                "use_bias": True,
                "num_hidden_layers": 1,
                "moe_layer_start_index": 0,
                "moe_num_shared_experts": 0,
                "tie_word_embeddings": True,
            },
        },
        gain=_GATES,
    ),
    Family(
        "hunyuan_v1_moe",
        {**TINY, "num_experts": 4, "moe_topk": 2, "head_dim": 8, "num_hidden_layers": 1},
        {"base": {}, "wide_bias": {**WIDE, "attention_bias": True, "tie_word_embeddings": True, "num_experts": 2}},
        gain=_GATES,
    ),
    Family(
        "granitemoe",
        {
            **TINY,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 1,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.4,
            "logits_scaling": 0.7,
        },
        {"base": {}, "bias": {"attention_bias": True, "tie_word_embeddings": True}},
        gain=_GATES,
    ),
    Family(
        "granitemoeshared",
        {
            **TINY,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 1,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.4,
            "logits_scaling": 0.7,
            "shared_intermediate_size": 64,
        },
        {"base": {}, "unshared": {"shared_intermediate_size": 0}},
        gain=_GATES,
    ),
    Family(
        "exaone_moe",
        {
            **TINY,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "num_shared_experts": 1,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
            "sliding_window": 7,
            "sliding_window_pattern": 2,
            "n_group": 2,
            "topk_group": 1,
        },
        {"base": {}, "raw_probs": {"norm_topk_prob": False, "n_group": 1}},
        gain=_GATES,
    ),
    Family(
        "solar_open",
        {**TINY, **{k: v for k, v in _DEEPSEEK_MOE.items() if k != "first_k_dense_replace"}, "head_dim": 8},
        {"base": {"num_hidden_layers": 1}, "bias_wide": {**WIDE, "attention_bias": True, "n_group": 1}},
        gain=_GATES,
    ),
    Family(
        "afmoe",
        {
            **TINY,
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "num_shared_experts": 1,
            "num_dense_layers": 1,
            "moe_intermediate_size": 32,
            "route_scale": 1.5,
            "sliding_window": 7,
            "global_attn_every_n_layers": 2,
        },
        {"base": {}, "mup": {"mup_enabled": True}},
        gain=_GATES,
    ),
    Family(
        "llama4_text",
        {
            **TINY,
            "num_hidden_layers": 2,
            "head_dim": 8,
            "intermediate_size_mlp": 32,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2,
            "no_rope_layer_interval": 2,
            "attention_chunk_size": 7,
            "floor_scale": 8,
            "attn_scale": 0.3,
            "rope_theta": 500000.0,
        },
        {
            "base": {},
            "untuned": {"attn_temperature_tuning": False, "use_qk_norm": False},
            "wide_top2": {**WIDE, "interleave_moe_layer_step": 1, "num_experts_per_tok": 2, "num_local_experts": 3},
        },
        gain=_GATES,
    ),
)
