"""Mixture-of-experts families with attention of any kind."""

from __future__ import annotations

from .dense import WIDE
from .spec import DROP, TINY, Family

__all__ = ["FAMILIES"]

_GPT_OSS_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 1024,
}
_DEEPSEEK_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "beta_fast": 16.0,
    "beta_slow": 1.0,
    "mscale": 0.7,
    "mscale_all_dim": 1.3,
    "original_max_position_embeddings": 64,
}
_DEEPSEEK_YARN_HUB = {k: v for k, v in _DEEPSEEK_YARN.items() if k not in ("rope_type", "rope_theta")} | {
    "type": "yarn",
    "factor": 8,
    "beta_fast": 16,
    "beta_slow": 1,
}
_DEEPSEEK_HUB = {
    "scoring_func": "softmax",
    "seq_aux": True,
    "aux_loss_alpha": 0.001,
    "moe_layer_freq": 1,
    "ep_size": 1,
    "head_dim": DROP,
    "mlp_bias": DROP,
    "qk_head_dim": DROP,
}

FAMILIES = (
    Family(
        "mixtral",
        {**TINY, "num_local_experts": 4, "num_experts_per_tok": 2, "rope_theta": 1000000.0, "rms_norm_eps": 1e-5},
        {
            "base": {"num_hidden_layers": 1, "_hub": {"head_dim": DROP}},
            "window": {"num_hidden_layers": 1, "sliding_window": 7, "num_experts_per_tok": 1},
            "wide": {**WIDE, "tie_word_embeddings": True},
        },
        gain={r"\.gate\.": 2.0},
    ),
    Family(
        "qwen3_moe",
        {
            **TINY,
            "head_dim": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "num_hidden_layers": 2,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "decoder_sparse_step": 2,
            "rope_theta": 1000000.0,
            "norm_topk_prob": True,
        },
        {
            "base": {},
            "raw_probs": {"norm_topk_prob": False},
            "mlp_only": {"decoder_sparse_step": 1, "mlp_only_layers": [0]},
            "window": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0},
            "bias_wide": {
                "attention_bias": True,
                **WIDE,
                "decoder_sparse_step": 1,
                "num_experts": 2,
                "num_experts_per_tok": 1,
                "_hub": {"num_experts": 2},
                "tie_word_embeddings": True,
            },
        },
        hub={"num_local_experts": DROP, "num_experts": 4, "layer_types": DROP},
        gain={r"\.gate\.": 2.0},
        inert=("mlp_only",),
    ),
    Family(
        "gpt_oss",
        {
            **TINY,
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 7,
            "rope_parameters": _GPT_OSS_YARN,
            "max_position_embeddings": 8192,
            "attention_bias": True,
        },
        {
            "base": {"_hub": {"initial_context_length": 1024, "experts_per_token": 2}},
            "truncate": {"rope_parameters": {**_GPT_OSS_YARN, "truncate": True}},
            "clamp": {"swiglu_limit": 0.75},
            "wide": {**WIDE, "num_local_experts": 2, "layer_types": ["full_attention"]},
        },
        hub={"swiglu_alpha": DROP},
        gain={r"router\.weight": 2.0, r"sinks": 4.0},
        mxfp4=(r"experts\.(gate_up|down)_proj$",),
    ),
    Family(
        "deepseek_v2",
        {
            **TINY,
            "num_key_value_heads": 4,
            "q_lora_rank": None,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 12,
            "intermediate_size": 24,
            "first_k_dense_replace": 1,
            "routed_scaling_factor": 1.5,
            "topk_method": "greedy",
            "n_group": 1,
            "topk_group": 1,
            "rope_theta": 10000.0,
        },
        {
            "lite": {},
            "yarn": {"rope_parameters": _DEEPSEEK_YARN, "_hub": {"rope_scaling": _DEEPSEEK_YARN_HUB}},
            "grouped": {
                "q_lora_rank": 32,
                "topk_method": "group_limited_greedy",
                "n_routed_experts": 6,
                "n_group": 3,
                "topk_group": 2,
                "n_shared_experts": 2,
                "num_experts_per_tok": 3,
                "num_hidden_layers": 1,
                "first_k_dense_replace": 0,
            },
            "wide_bias": {
                "num_hidden_layers": 1,
                "attention_bias": True,
                "num_attention_heads": 1,
                "num_key_value_heads": 1,
                "qk_nope_head_dim": 32,
                "qk_rope_head_dim": 32,
                "v_head_dim": 32,
                "q_lora_rank": 32,
            },
        },
        hub=_DEEPSEEK_HUB,
        gain={r"\.gate\.": 2.0},
    ),
)
