"""More dense attention families: rotary, RMS norms, gated feed-forwards, with each family's own departures."""

from __future__ import annotations

from .dense import WIDE
from .spec import DROP, TINY, Family

__all__ = ["FAMILIES"]

_WIDE64 = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1}
_WINDOWED = {"num_hidden_layers": 3, "sliding_window": 7}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

FAMILIES = (
    Family(
        "smollm3",
        {**TINY, "num_hidden_layers": 3, "no_rope_layer_interval": 2, "rope_theta": 50000.0},
        {
            "base": {"_hub": {"layer_types": DROP}},
            "window": {"use_sliding_window": True, "sliding_window": 7, "no_rope_layers": [1, 0, 0]},
            "bias_wide": {"attention_bias": True, "mlp_bias": True, **_WIDE64, "tie_word_embeddings": True},
        },
    ),
    Family(
        "ministral3",
        {
            **TINY,
            "head_dim": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 512,
            "rope_parameters": {
                **_YARN,
                "rope_theta": 1000000.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
                "original_max_position_embeddings": 16,
            },
        },
        {"base": {}, "window": {"sliding_window": 7}, "wide_tied": {**WIDE, "tie_word_embeddings": True}},
    ),
    Family(
        "ministral",
        {
            **TINY,
            "sliding_window": 7,
            "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "layer_types": ["sliding_attention", "full_attention"],
        },
        {"base": {}, "wide": {**WIDE, "layer_types": ["sliding_attention"]}},
    ),
    Family(
        "granite",
        {
            **TINY,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.4,
            "logits_scaling": 0.7,
            "tie_word_embeddings": True,
        },
        {
            "base": {},
            "plain": {"embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0},
            "bias_wide": {"attention_bias": True, "mlp_bias": True, **_WIDE64, "tie_word_embeddings": False},
        },
    ),
    Family(
        "glm",
        {**TINY, "head_dim": 8, "rope_theta": 10000.0},
        {
            "base": {},
            "no_bias_wide": {"attention_bias": False, **WIDE, "tie_word_embeddings": True},
            "quarter": {
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
            },
        },
    ),
    Family(
        "glm4",
        {**TINY, "head_dim": 8, "rope_theta": 10000.0},
        {
            "base": {},
            "no_bias_wide": {"attention_bias": False, **WIDE, "tie_word_embeddings": True},
            "whole": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}},
        },
    ),
    Family(
        "olmo",
        {**TINY, "clip_qkv": 0.7},
        {
            "base": {},
            "unclipped": {"clip_qkv": None},
            "bias_wide": {"attention_bias": True, **_WIDE64, "tie_word_embeddings": True},
        },
    ),
    Family(
        "olmo3",
        {
            **TINY,
            "num_hidden_layers": 2,
            "sliding_window": 7,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_theta": 500000.0,
        },
        {
            "base": {},
            "yarn": {
                "rope_parameters": {
                    "full_attention": {**_YARN, "rope_theta": 500000.0, "attention_factor": 1.2},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
                },
                "_hub": {"rope_local_base_freq": DROP},
            },
            "bias_wide": {
                "attention_bias": True,
                **_WIDE64,
                "tie_word_embeddings": True,
                "layer_types": ["sliding_attention"],
            },
        },
    ),
    Family(
        "cohere",
        {**TINY, "logit_scale": 0.5, "rope_theta": 10000.0, "tie_word_embeddings": True},
        {
            "base": {},
            "qk_norm": {"use_qk_norm": True},
            "bias_wide": {"attention_bias": True, **_WIDE64},
        },
        gain={"embed_tokens": 3.0},
    ),
    Family(
        "cohere2",
        {
            **TINY,
            "logit_scale": 0.5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "num_hidden_layers": 2,
            "sliding_window": 7,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        {
            "base": {"_hub": {"layer_types": DROP, "sliding_window_pattern": 2}},
            "bias_wide": {"attention_bias": True, **_WIDE64, "layer_types": ["sliding_attention"]},
        },
        gain={"embed_tokens": 3.0},
    ),
    Family(
        "exaone4",
        {**TINY, "num_hidden_layers": 2, "sliding_window": 7, "sliding_window_pattern": 2, "rope_theta": 10000.0},
        {
            "base": {"_hub": {"sliding_window_pattern": "LG"}},
            "full": {
                "sliding_window": None,
                "layer_types": ["full_attention"] * 2,
                "_hub": {"sliding_window_pattern": None},
            },
            "llama3_wide": {
                **_WIDE64,
                "layer_types": ["full_attention"],
                "rope_parameters": _LLAMA3,
                "tie_word_embeddings": True,
            },
        },
    ),
    Family(
        "seed_oss",
        {**TINY, "head_dim": 8, "attention_bias": True, "rope_theta": 10000.0},
        {
            "base": {},
            "out_bias_wide": {**WIDE, "attention_out_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        },
    ),
    Family(
        "gemma",
        {**TINY, "head_dim": 8, "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh"},
        {
            "base": {"_hub": {"hidden_act": "gelu", "hidden_activation": None}},
            "bias_wide": {"attention_bias": True, **WIDE},
        },
    ),
    Family(
        "nemotron",
        {**TINY, "head_dim": 8, "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "hidden_act": "relu2"},
        {
            "base": {},
            "bias_wide": {"attention_bias": True, "mlp_bias": True, **WIDE, "tie_word_embeddings": True},
        },
    ),
    Family(
        "helium",
        {**TINY, "head_dim": 8, "rope_theta": 100000.0},
        {
            "base": {},
            "bias_wide": {
                "attention_bias": True,
                "mlp_bias": True,
                **_WIDE64,
                "head_dim": 32,
                "tie_word_embeddings": True,
            },
        },
    ),
    Family(
        "apertus",
        {**TINY, "hidden_act": "xielu"},
        {
            "base": {"rope_parameters": _LLAMA3},
            "bias_wide": {"attention_bias": True, **_WIDE64, "tie_word_embeddings": True},
        },
    ),
    Family(
        "bitnet",
        {**TINY, "hidden_act": "relu2", "rope_theta": 500000.0, "tie_word_embeddings": True},
        {"base": {}, "wide": {**_WIDE64, "attention_bias": True, "tie_word_embeddings": False}},
    ),
    Family(
        "ernie4_5",
        {**TINY, "head_dim": 8, "rope_theta": 500000.0},
        {"base": {}, "bias_wide": {"use_bias": True, **WIDE, "tie_word_embeddings": True}},
    ),
    Family(
        "hunyuan_v1_dense",
        {**TINY, "head_dim": 8, "rope_theta": 10000.0},
        {
            "base": {},
            "dynamic": {
                "rope_parameters": {"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0, "rope_theta": 10000.0}
            },
            "bias_wide": {"attention_bias": True, **WIDE, "tie_word_embeddings": True},
        },
    ),
    Family(
        "minicpm3",
        {
            **TINY,
            "num_key_value_heads": 4,
            "q_lora_rank": 32,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 8,
            "scale_emb": 3,
            "scale_depth": 1.4,
            "dim_model_base": 16,
            "tie_word_embeddings": True,
        },
        {
            "base": {},
            "longrope": {
                "max_position_embeddings": 64,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "original_max_position_embeddings": 16,
                    "short_factor": [1.0, 1.5, 2.0, 2.5],
                    "long_factor": [2.0, 4.0, 8.0, 9.0],
                },
                "_path_dependent": "longrope",
            },
            "bias": {"attention_bias": True, "mlp_bias": True, "num_hidden_layers": 1, "tie_word_embeddings": False},
        },
    ),
    Family(
        "arcee",
        {**TINY, "head_dim": 8, "hidden_act": "relu2"},
        {
            "base": {},
            "yarn": {"rope_parameters": {**_YARN, "beta_fast": 16.0, "beta_slow": 1.0}},
            "bias_wide": {"attention_bias": True, "mlp_bias": True, **WIDE, "tie_word_embeddings": True},
        },
    ),
    Family(
        "vaultgemma",
        {
            **TINY,
            "num_hidden_layers": 2,
            "head_dim": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "sliding_window": 7,
            "query_pre_attn_scalar": 9,
            "tie_word_embeddings": True,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 2.0,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        {"base": {}, "wide": {**WIDE, "layer_types": ["full_attention"], "attn_logit_softcapping": None}},
    ),
    Family(
        "nanochat",
        {**TINY, "hidden_act": "relu2", "final_logit_softcapping": 2.0},
        {"base": {}, "bias_wide": {"attention_bias": True, **_WIDE64}},
    ),
    Family(
        "internlm3",
        {**TINY, "head_dim": 8},
        {
            "base": {},
            "qkv_bias_wide": {"attention_bias": True, "mlp_bias": True, **WIDE, "tie_word_embeddings": True},
        },
    ),
    Family("jais2", {**TINY, "hidden_act": "relu2"}, {"base": {}, "wide": {**_WIDE64, "attention_bias": False}}),
    Family(
        "cwm",
        {
            **TINY,
            "head_dim": 8,
            "num_hidden_layers": 2,
            "sliding_window": 7,
            "layer_types": ["full_attention", "sliding_attention"],
            "rope_parameters": _LLAMA3,
        },
        {"base": {}, "bias_wide": {"mlp_bias": True, **WIDE, "layer_types": ["sliding_attention"]}},
    ),
    Family(
        "youtu",
        {
            **TINY,
            "num_key_value_heads": 4,
            "q_lora_rank": 32,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "tie_word_embeddings": True,
            "num_hidden_layers": 1,
            "pad_token_id": None,  # transformers clears the padding row when it loads
        },
        {"base": {}, "plain": {"q_lora_rank": None, "rope_interleave": False}},
    ),
)
