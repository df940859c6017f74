"""Designs with few relatives: attention by learned distances, matrix memories, loops over the same layers."""

from __future__ import annotations

from .spec import TINY, Family

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
)
