"""Designs with few relatives: attention by learned distances, matrix memories, loops over the same layers."""

from __future__ import annotations

from .spec import DROP, HIDDEN, TINY, VOCAB, Family

__all__ = ["FAMILIES"]

_GATES = {r"\.(gate|router)\.": 2.0, "e_score_correction_bias": 2.0}
_INKLING = {
    **{k: v for k, v in TINY.items() if k != "tie_word_embeddings"},
    "num_hidden_layers": 2,
    "layer_types": ["hybrid_sliding", "hybrid"],
    "mlp_layer_types": ["sparse", "dense"],
    "head_dim": 8,
    "swa_num_attention_heads": 2,
    "swa_num_key_value_heads": 1,
    "swa_head_dim": 16,
    "sliding_window_size": 7,
    "d_rel": 4,
    "rel_extent": 9,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "route_scale": 2.0,
    "logits_mup_width_multiplier": 1.5,
}
_TOWERS = {
    "vision_config": {
        "hidden_size": 8,
        "num_hidden_layers": 3,
        "num_attention_heads": 1,
        "patch_size": 2,
    },
    "audio_config": {"n_mel_bins": 2, "mel_vocab_size": 4},
    "image_token_id": 29,
    "audio_token_id": 30,
}
_INKLING2 = {
    **{k: v for k, v in _INKLING.items() if k not in ("mlp_layer_types", "n_shared_experts", "intermediate_size")},
    "layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding"],
    "num_hidden_layers": 3,
    "n_layers_per_attn_res_block": 2,
    "unpadded_vocab_size": 30,
    "log_scaling_n_floor": 5,
    "log_scaling_alpha": 0.8,
    "qk_l2_clip_threshold": 3.0,
    "rel_l2_clip_threshold": 2.0,
    "mlp_gate_softcap": 1.5,
    "mlp_up_softcap": 1.0,
    "final_logit_softcapping": 3.0,
}

FAMILIES = (
    Family(
        "inkling_text",
        _INKLING,
        {
            "base": {},
            "scaled": {
                "log_scaling_n_floor": 5,
                "log_scaling_alpha": 0.8,
                "unpadded_vocab_size": 30,
                "num_hidden_layers": 1,
                "layer_types": ["hybrid"],
                "mlp_layer_types": ["sparse"],
                "conv_kernel_size": 3,
            },
        },
        modern=True,
        gain={**_GATES, "rel_logits": 2.0},
    ),
    Family(
        "inkling_mm_model",
        {"text_config": _INKLING, **_TOWERS},
        {"base": {}},
        conditional=True,
        modern=True,
        gain={**_GATES, "rel_logits": 2.0},
    ),
    Family(
        "inkling2_text",
        {k: v for k, v in _INKLING2.items() if k != "logits_mup_width_multiplier"},
        {"base": {}, "first_full": {"layer_types": ["hybrid"], "num_hidden_layers": 1, "conv_kernel_size": 3}},
        modern=True,
        gain={**_GATES, "rel_logits": 2.0, "query$": 4.0},
    ),
    Family(
        "inkling2",
        {
            "text_config": {k: v for k, v in _INKLING2.items() if k != "logits_mup_width_multiplier"},
            "vision_config": {
                "hidden_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "patch_size": 2,
                "posemb_grid_size": 2,
                "projection_hidden_dim": 8,
                "text_hidden_size": 32,
            },
            "image_token_id": 29,
        },
        {"base": {}},
        conditional=True,
        modern=True,
        gain={**_GATES, "rel_logits": 2.0, "query$": 4.0},
    ),
    Family(
        "flint",
        {
            **TINY,
            "num_hidden_layers": 3,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "sliding_window": 7,
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
            "mlp_only_layers": [0],
        },
        {
            "base": {},
            "usual": {
                "num_hidden_layers": 4,
                "layer_types": None,
                "mlp_only_layers": None,
                "norm_topk_prob": False,
                "attention_bias": True,
                "_hub": {"layer_types": DROP, "mlp_only_layers": DROP},
            },
        },
        gain={**_GATES, "sinks": 4.0},
    ),
    Family(
        "xlstm",
        {
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "num_hidden_layers": 2,
            "num_heads": 2,
            "ffn_round_up_to_multiple_of": 32,
            "autocast_kernel_dtype": "float32",
            "chunk_size": 16,
            **{k: v for k, v in TINY.items() if k.endswith("_token_id")},
        },
        {
            "base": {"_hub": {"num_hidden_layers": DROP}},
            "bias": {
                "num_hidden_layers": 1,
                "use_bias": True,
                "gate_soft_cap": 1.5,
                "output_logit_soft_cap": 1.2,
                "eps": 0.2,
                "norm_eps": 0.01,
                "qk_dim_factor": 1.0,
                "v_dim_factor": 2.0,
                "ffn_proj_factor": 1.5,
            },
        },
        gain={"gate_preact": 3.0},
    ),
    Family(
        "hrm_text",
        {
            **{k: v for k, v in TINY.items() if k != "num_key_value_heads"},
            "num_hidden_layers": 2,
            "head_dim": 8,
            "L_cycles": 2,
            "embedding_scale": 1.5,
        },
        {
            "base": {"_hub": {"num_hidden_layers": 2, "num_layers_per_stack": DROP}},
            "bias": {
                "num_hidden_layers": 1,
                "H_cycles": 3,
                "L_cycles": 1,
                "attention_bias": True,
                "mlp_bias": True,
                "embedding_scale": None,
                "initializer_range": 0.25,
            },
        },
        gain={"embed": 2.0},
    ),
)
