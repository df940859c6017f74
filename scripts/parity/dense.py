"""Dense attention families."""

from __future__ import annotations

from .spec import DROP, TINY, Family

__all__ = ["FAMILIES", "WIDE"]

WIDE = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
"""Head width 32, as quantized key-value caches need."""

_LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
_DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "beta_fast": 16.0,
    "beta_slow": 1.0,
}

FAMILIES = (
    Family(
        "llama",
        {**TINY, "rope_theta": 10000.0},
        {
            "base": {"_hub": {"head_dim": DROP, "attention_bias": DROP, "mlp_bias": DROP}},
            "bias": {"attention_bias": True, "mlp_bias": True, **WIDE},
            "wide_tied": {**WIDE, "tie_word_embeddings": True, "rope_theta": 500000.0, "rms_norm_eps": 1e-2},
            "linear": {"rope_parameters": _LINEAR, "_hub": {"rope_scaling": {"type": "linear", "factor": 4.0}}},
            "llama3": {"rope_parameters": _LLAMA3},
            "yarn": {"rope_parameters": _YARN},
            "dynamic": {"rope_parameters": _DYNAMIC, "max_position_embeddings": 16, "_path_dependent": "dynamic"},
            "gelu": {"hidden_act": "gelu"},
        },
    ),
    Family(
        "mistral",
        {**TINY, "sliding_window": 7, "rms_norm_eps": 1e-5, "rope_theta": 10000.0},
        {
            "window": {},
            "full": {"sliding_window": None, "rope_theta": 1000000.0},
            "wide": {**WIDE, "sliding_window": 5},
        },
    ),
    Family(
        "qwen2",
        {**TINY, "rope_theta": 1000000.0, "use_sliding_window": False, "tie_word_embeddings": True},
        {
            "base": {"_hub": {"layer_types": DROP, "sliding_window": 64}},
            "window": {
                "use_sliding_window": True,
                "sliding_window": 7,
                "max_window_layers": 1,
                "_hub": {"layer_types": DROP},
            },
            "yarn": {"rope_parameters": {**_YARN, "rope_theta": 1000000.0}, "_hub": {"layer_types": DROP}},
            "wide": {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1},
        },
    ),
    Family(
        "qwen3",
        {**TINY, "head_dim": 16, "rope_theta": 1000000.0, "num_attention_heads": 2, "num_key_value_heads": 1},
        {
            "base": {"_hub": {"layer_types": DROP, "max_window_layers": 2}},
            "window": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
            "bias_wide": {"attention_bias": True, **WIDE, "tie_word_embeddings": True},
            "yarn": {"rope_parameters": {**_YARN, "rope_theta": 1000000.0}},
        },
    ),
    Family(
        "gemma2",
        {
            **TINY,
            "num_hidden_layers": 2,
            "head_dim": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "sliding_window": 7,
            "query_pre_attn_scalar": 9,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 2.0,
            "tie_word_embeddings": True,
            "rope_theta": 10000.0,
        },
        {
            "base": {"_hub": {"layer_types": DROP, "hidden_act": "gelu_pytorch_tanh"}},
            "uncapped": {"attn_logit_softcapping": None, "final_logit_softcapping": None},
            "bias_wide": {
                "attention_bias": True,
                **WIDE,
                "query_pre_attn_scalar": 40,
                "layer_types": ["sliding_attention"],
            },
        },
    ),
    Family(
        "gemma3_text",
        {
            **TINY,
            "num_hidden_layers": 3,
            "head_dim": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "sliding_window": 7,
            "sliding_window_pattern": 3,
            "query_pre_attn_scalar": 9,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
        {
            "base": {"_hub": {"layer_types": DROP, "sliding_window_pattern": 3, "_sliding_window_pattern": 3}},
            "linear": {
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 50000.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                },
                "_hub": {"layer_types": DROP, "sliding_window_pattern": 3},
            },
            "softcap": {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0},
            "bias_wide": {"attention_bias": True, **WIDE, "layer_types": ["sliding_attention"]},
        },
    ),
    Family(
        "gemma3",
        {
            "text_config": {
                **TINY,
                "head_dim": 16,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "sliding_window": 7,
                "sliding_window_pattern": 2,
                "query_pre_attn_scalar": 9,
                "tie_word_embeddings": True,
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                },
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "image_size": 8,
                "patch_size": 4,
            },
            "mm_tokens_per_image": 4,
            "image_token_index": 29,
            "boi_token_index": 30,
            "eoi_token_index": 31,
        },
        {
            "base": {
                "_hub": {
                    "text_config": {
                        "layer_types": DROP,
                        "sliding_window_pattern": 2,
                        "rope_theta": DROP,
                        "rope_local_base_freq": DROP,
                    }
                }
            },
        },
    ),
    Family(
        "phi3",
        {
            **TINY,
            "head_dim": DROP,
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 16,
            "max_position_embeddings": 64,
            "sliding_window": None,
        },
        {
            "base": {"_hub": {"original_max_position_embeddings": 64}},
            "window": {"sliding_window": 7},
            "partial": {"partial_rotary_factor": 0.5, "tie_word_embeddings": True},
            "longrope_short": {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "short_factor": [1.0, 1.5, 2.0, 2.5],
                    "long_factor": [2.0, 4.0, 8.0, 9.0],
                },
                "original_max_position_embeddings": 32,
            },
            "longrope_long": {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "short_factor": [1.0, 1.5, 2.0, 2.5],
                    "long_factor": [2.0, 4.0, 8.0, 9.0],
                },
                "_path_dependent": "longrope",
            },
            "longrope_partial": {
                "partial_rotary_factor": 0.5,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "partial_rotary_factor": 0.5,
                    "short_factor": [1.0, 1.5],
                    "long_factor": [2.0, 4.0],
                },
                "_path_dependent": "longrope",
            },
            "wide": {
                "hidden_size": 64,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "num_hidden_layers": 1,
                "tie_word_embeddings": True,
            },
        },
    ),
    Family(
        "olmo2",
        {**TINY, "rope_theta": 500000.0},
        {
            "base": {},
            "bias": {"attention_bias": True, "tie_word_embeddings": True},
            "wide": {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1},
        },
    ),
)
