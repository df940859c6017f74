"""Text models published inside multimodal configs, and their text-only types."""

from __future__ import annotations

from typing import Any

from .hybrid import FAMILIES as _HYBRID
from .spec import DROP, TINY, Family

__all__ = ["FAMILIES", "GEMMA4"]

_NEXT = {k: v for k, v in _HYBRID[0].base.items() if not k.startswith(("num_experts", "moe_", "shared_"))}
_MROPE = {
    "rope_type": "default",
    "rope_theta": 10000000.0,
    "partial_rotary_factor": 0.5,
    "mrope_section": [2, 1, 1],
    "mrope_interleaved": True,
}
_EXPERTS = {
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
_VISION = {
    "depth": 1,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_heads": 1,
    "patch_size": 4,
    "out_hidden_size": 32,
    "num_position_embeddings": 4,
    "deepstack_visual_indexes": [],
}
_GEMMA_ROPE = {
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
GEMMA4 = {
    **TINY,
    "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"],
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 7,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 32,
    "final_logit_softcapping": 2.0,
    "tie_word_embeddings": True,
    "rope_parameters": _GEMMA_ROPE,
}

_GLOBAL_32 = {"per_layer_config": DROP, "global_head_dim": 32, "num_global_key_value_heads": None}
"""Published Gemma 4 configs name what full-attention layers have; transformers 5.23 writes a config for each layer."""

_MUSE = {**TINY, "head_dim": 8, "sliding_window": 7, "final_logit_softcapping": 3.0, "max_position_embeddings": 512}
_MUSE["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
_MUSE_VISION = {
    "patch_size": 2,
    "pos_emb_height": 2,
    "pos_emb_width": 2,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "hidden_size": 8,
    "intermediate_size": 8,
    "max_position_embeddings": 4,
}


def _text_keys_on_top(config: dict[str, Any]) -> dict[str, Any]:
    """Qwen2-VL publishes its text config flat, and its positions as rope type "mrope"."""
    text = config.pop("text_config")
    text["rope_scaling"] = {"type": "mrope", "mrope_section": text["rope_scaling"]["mrope_section"]}
    return {**{k: v for k, v in text.items() if k not in ("model_type", "layer_types")}, **config}


FAMILIES = (
    Family(
        "qwen3_5_text",
        {**_NEXT, "rope_parameters": _MROPE},
        {"base": {}, "heads": {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "tie_word_embeddings": True}},
    ),
    Family(
        "qwen3_5_moe_text",
        {**_NEXT, **_EXPERTS, "rope_parameters": _MROPE},
        {"base": {}},
        gain={r"\.gate\.": 2.0},
    ),
    Family(
        "qwen3_5",
        {"text_config": {**_NEXT, "rope_parameters": _MROPE}, "vision_config": _VISION, "tie_word_embeddings": False},
        {"base": {}},
        conditional=True,
        modern=True,
    ),
    Family(
        "qwen3_5_moe",
        {
            "text_config": {**_NEXT, **_EXPERTS, "rope_parameters": _MROPE},
            "vision_config": _VISION,
            "tie_word_embeddings": False,
        },
        {"base": {}},
        gain={r"\.gate\.": 2.0},
        conditional=True,
        modern=True,
    ),
    Family(
        "gemma4_text",
        GEMMA4,
        {
            "base": {"_hub": _GLOBAL_32},
            "k_eq_v": {
                "attention_k_eq_v": True,
                "num_global_key_value_heads": 2,
                "_hub": {**_GLOBAL_32, "num_global_key_value_heads": 2},
            },
            "per_layer_shared": {
                "num_hidden_layers": 4,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
                "hidden_size_per_layer_input": 32,
                "num_kv_shared_layers": 2,
                "use_double_wide_mlp": True,
                "_hub": _GLOBAL_32,
            },
            "experts": {
                "enable_moe_block": True,
                "num_experts": 4,
                "top_k_experts": 2,
                "moe_intermediate_size": 32,
                "num_hidden_layers": 1,
                "layer_types": ["full_attention"],
                "_hub": _GLOBAL_32,
            },
        },
        modern=True,
    ),
    Family(
        "gemma4",
        {
            "text_config": {**GEMMA4, "hidden_size_per_layer_input": 32},
            "vision_config": {
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "num_key_value_heads": 1,
                "head_dim": 8,
                "patch_size": 4,
                "position_embedding_size": 16,
            },
            "audio_config": None,
            "image_token_id": 29,
            "video_token_id": 28,
            "audio_token_id": 30,
        },
        {"base": {"_hub": {"text_config": _GLOBAL_32}}},
        conditional=True,
        modern=True,
    ),
    Family(
        "gemma3n_text",
        {
            **TINY,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "sliding_window": 7,
            "hidden_size_per_layer_input": 32,
            "vocab_size_per_layer_input": 32,
            "num_kv_shared_layers": 2,
            "laurel_rank": 32,
            "altup_num_inputs": 2,
            "altup_coef_clip": 1.0,
            "activation_sparsity_pattern": [0.9, 0.0, 0.0, 0.0],
            "final_logit_softcapping": 2.0,
            "tie_word_embeddings": True,
        },
        {"base": {}},
    ),
    Family(
        "mistral3",
        {
            "text_config": {**TINY, "model_type": "mistral", "head_dim": 8, "rope_theta": 1000000.0},
            "vision_config": {
                "model_type": "pixtral",
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "image_size": 8,
                "patch_size": 4,
            },
            "tie_word_embeddings": False,
        },
        {
            "base": {},
            "ministral3": {
                "text_config": {
                    "model_type": "ministral3",
                    "rope_parameters": {
                        "rope_type": "yarn",
                        "rope_theta": 1000000.0,
                        "factor": 4.0,
                        "beta_fast": 32.0,
                        "beta_slow": 1.0,
                        "mscale": 1.0,
                        "mscale_all_dim": 1.0,
                        "llama_4_scaling_beta": 0.1,
                        "original_max_position_embeddings": 16,
                    },
                }
            },
        },
        conditional=True,
    ),
    Family(
        "qwen2_vl",
        {
            "text_config": {
                **TINY,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [1, 1, 2]},
            },
            "vision_config": {
                "depth": 1,
                "embed_dim": 8,
                "hidden_size": 32,
                "num_heads": 1,
                "mlp_ratio": 1,
                "patch_size": 4,
            },
        },
        {"base": {}},
        respell=_text_keys_on_top,
        conditional=True,
    ),
    Family(
        "qwen3_vl",
        {
            "text_config": {
                **TINY,
                "head_dim": 8,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 5000000.0,
                    "mrope_section": [2, 1, 1],
                    "mrope_interleaved": True,
                },
            },
            "vision_config": _VISION,
            "tie_word_embeddings": False,
        },
        {"base": {}},
        conditional=True,
    ),
    Family(
        "qwen3_vl_moe",
        {
            "text_config": {
                **TINY,
                "head_dim": 8,
                "num_hidden_layers": 1,
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 32,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 5000000.0,
                    "mrope_section": [2, 1, 1],
                    "mrope_interleaved": True,
                },
            },
            "vision_config": _VISION,
            "tie_word_embeddings": False,
        },
        {"base": {}},
        conditional=True,
        gain={r"\.gate\.": 2.0},
    ),
    Family(
        "lfm2_vl",
        {
            "text_config": {
                **TINY,
                "model_type": "lfm2",
                "layer_types": ["conv", "full_attention"],
                "block_multiple_of": 32,
                "tie_word_embeddings": True,
            },
            "vision_config": {
                "model_type": "siglip2_vision_model",
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "num_patches": 4,
                "patch_size": 4,
            },
            "projector_hidden_size": 8,
            "image_token_id": 29,
        },
        {"base": {}},
        conditional=True,
    ),
    Family(
        "muse_glimmer",
        {
            "text_config": {**_MUSE, "qk_scale_factor": 2.0, "output_multiplier": 0.8},
            "vision_config": _MUSE_VISION,
            "image_token_id": 29,
            "video_token_id": 28,
            "out_hidden_size": 32,
            "projector_hidden_size": 8,
            "tie_word_embeddings": False,
        },
        {"base": {}, "all_turn": {"text_config": {"layer_rope_theta": [10000.0, 0], "attention_bias": True}}},
        conditional=True,
        modern=True,
    ),
    Family(
        "muse_spark",
        {
            "text_config": {
                **_MUSE,
                "moe_hidden_size": 32,
                "moe_intermediate_size": 32,
                "num_local_experts": 4,
                "num_experts_per_tok": 2,
                "mlp_layer_types": ["dense", "sparse"],
                "routed_scaling_factor": 1.5,
                "output_multiplier": 0.9,
            },
            "vision_config": _MUSE_VISION,
            "audio_config": {
                "patch_sizes": [2],
                "hidden_sizes": [8],
                "depths": [1],
                "num_hidden_layers": 1,
                "out_hidden_size": 32,
            },
            "image_token_id": 29,
            "video_token_id": 28,
            "audio_token_id": 30,
            "out_hidden_size": 32,
            "projector_hidden_size": 8,
            "tie_word_embeddings": False,
        },
        {"base": {}},
        gain={r"\.(gate|router)\.": 2.0, "e_score_correction_bias": 2.0},
        conditional=True,
        modern=True,
    ),
)
