"""Families of the newest transformers releases."""

from __future__ import annotations

from .hybrid import FAMILIES as _HYBRID
from .nested import FAMILIES as _NESTED
from .nested import GEMMA4
from .spec import DROP, HIDDEN, TINY, Family

__all__ = ["FAMILIES"]

_ROUTER = {r"\.gate\.": 2.0, "e_score_correction_bias": 2.0}
_TRAINED = {"original_max_position_embeddings": 32}
_QWEN4 = {
    **{k: v for k, v in _HYBRID[0].base.items() if not k.startswith(("decoder_", "mlp_", "full_"))},
    "layer_types": ["linear_attention", "indexed_attention"],
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    "hc_count": 2,
    "hc_lowrank": 32,
    "ple_layer_ids": [1],
    "ple_embed_dim": 64,
    "ngram_size": 2,
    "heads_per_ngram": 2,
    "ngram_vocab_size_base": 40,
    "make_ngram_vocab_size_divisible_by": 16,
    "split_ngram_parts": 4,
    "indexer_n_heads": 8,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 4,
    "indexer_compress_ratio": 2,
    "eos_token_id": [9, 2],  # an id that the prompt has
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
_QWEN4_MORE = {
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "hc_count": 3,
    "ple_layer_ids": [2, 1],
    "ngram_size": 3,
    "heads_per_ngram": 1,
    "ple_conv_kernel_size": 2,
    "indexer_budget": 6,
    "indexer_compress_ratio": 3,
    "attention_bias": True,
    "output_gate_type": "sigmoid",
    "norm_topk_prob": False,
    "tie_word_embeddings": True,
}
_SLIDING = {
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": 64,
    "kv_lora_rank": 64,
    "head_dim": 40,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 8,
    "v_head_dim": 32,
}
_DOTS3 = {
    **TINY,
    "num_key_value_heads": 4,
    "layer_types": ["indexed_attention", "sliding_attention"],
    "sliding_window": 7,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "routed_scaling_factor": 1.5,
    "moe_intermediate_size": 32,
    "shared_experts_intermediate_size": 32,
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "head_dim": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "index_topk": 6,
    "index_head_dim": 16,
    "index_n_heads": 8,
    "per_layer_config": {1: _SLIDING},
}
_DOTS3_HUB = {
    "rope_parameters": DROP,
    "per_layer_config": DROP,
    "rope_theta": 80000000.0,
    "swa_rope_theta": 50000.0,
    "layer_types": ["full_attention", "sliding_attention"],
    "mlp_layer_types": DROP,
    "sliding_window": DROP,
    "sliding_window_size": 7,
    "moe_shared_expert_intermediate_size": 32,
    **{f"swa_{name}": value for name, value in _SLIDING.items()},
}
_COMPASS = {
    **TINY,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 7,
    "logit_scale": 0.5,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        "full_attention": None,
    },
}
_TOWER = next(family.base for family in _NESTED if family.model_type == "qwen3_5")
FAMILIES = (
    Family("qwen4_exp_text", _QWEN4, {"base": {}, "more": _QWEN4_MORE}, gain=_ROUTER, modern=True),
    Family(
        "qwen4_exp",
        {
            **_TOWER,
            "text_config": {**_QWEN4, "rope_parameters": _TOWER["text_config"]["rope_parameters"]},
        },
        {"base": {}},
        gain=_ROUTER,
        conditional=True,
        modern=True,
    ),
    Family(
        "dots3_note_text",
        _DOTS3,
        {
            "base": {"_hub": _DOTS3_HUB},
            "full_bias": {
                "layer_types": ["full_attention", "sliding_attention"],
                "mlp_layer_types": ["sparse", "dense"],
                "attention_bias": True,
                "norm_topk_prob": False,
                "n_shared_experts": 2,
                "tie_word_embeddings": True,
                "rope_parameters": {
                    "full_attention": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, **_TRAINED},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
                },
            },
        },
        gain=_ROUTER,
        modern=True,
    ),
    Family(
        "dots3_note",
        {
            "text_config": _DOTS3,
            "vision_config": {
                "hidden_size": 8,
                "intermediate_size": 8,
                "moe_intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "patch_size": 4,
                "mlp_layer_types": ["dense"],
                "adapter_in_dim": 8,
                "adapter_out_dim": HIDDEN,
            },
            "audio_config": {
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "feature_size": 8,
                "downsample_hidden_size": 4,
                "adapter_input_size": 8,
                "adapter_out_dim": HIDDEN,
            },
            "image_token_id": 29,
            "video_token_id": 30,
            "audio_token_id": 31,
        },
        {"base": {}},
        hub={"text_config": _DOTS3_HUB},
        respell=lambda config: {**config.pop("text_config"), **config},
        gain=_ROUTER,
        conditional=True,
        modern=True,
    ),
    Family(
        "cohere_compass_text",
        _COMPASS,
        {
            "base": {},
            "bias_wide": {
                "attention_bias": True,
                "layer_types": ["full_attention", "full_attention"],
                "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5e4}},
                "tie_word_embeddings": False,
                "num_attention_heads": 2,
                "num_key_value_heads": None,
                "logit_scale": None,
            },
        },
        modern=True,
        gain={"embed_tokens": 3.0},
    ),
    Family(
        "cohere_compass",
        {
            "text_config": _COMPASS,
            "vision_config": _TOWER["vision_config"],
            "image_token_id": 29,
            "video_token_id": 30,
            "tie_word_embeddings": True,
        },
        {"base": {}},
        conditional=True,
        modern=True,
        gain={"embed_tokens": 3.0},
    ),
    Family(
        "beam",
        {
            **TINY,
            "num_hidden_layers": 3,
            "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "mlp_layer_types": ["dense", "sparse", "sparse"],
            "sliding_window": 7,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "n_group": 2,
            "topk_group": 1,
            "final_logit_softcapping": 3.0,
        },
        {
            "base": {"_hub": {"rope_parameters": DROP}},
            "ropes_bias": {
                "attention_bias": True,
                "norm_topk_prob": False,
                "final_logit_softcapping": None,
                "tie_word_embeddings": True,
                "rope_parameters": {
                    "sliding_attention": None,
                    "full_attention": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, **_TRAINED},
                },
            },
            "no_rope": {"rope_parameters": {"sliding_attention": None, "full_attention": None}},
            "defaults": {
                "layer_types": None,
                "mlp_layer_types": None,
                "num_hidden_layers": 6,
                "num_experts": 2,
                "n_group": 1,
                "_hub": {"layer_types": DROP, "mlp_layer_types": DROP},
            },
        },
        modern=True,
        gain={**_ROUTER, "gate_bias": 4.0},
    ),
    Family(
        "gemma4_unified",
        {
            "text_config": {k: v for k, v in GEMMA4.items() if "per_layer_input" not in k},
            "vision_config": {"patch_size": 2, "pooling_kernel_size": 2, "mm_embed_dim": 8, "mm_posemb_size": 4},
            "audio_config": {"audio_embed_dim": 8},
            "image_token_id": 29,
            "video_token_id": 28,
            "audio_token_id": 30,
        },
        {"base": {}, "k_eq_v": {"text_config": {"attention_k_eq_v": True, "num_global_key_value_heads": 2}}},
        conditional=True,
        modern=True,
    ),
)
