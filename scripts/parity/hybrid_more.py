"""More families with recurrent, convolutional or linear-attention layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .spec import DROP, HIDDEN, TINY, VOCAB, Family

__all__ = ["FAMILIES"]

_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_MAMBA1 = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "state_size": 8,
    "expand": 2,
    "conv_kernel": 4,
    "time_step_rank": 32,
    **_IDS,
}
_MAMBA2 = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 2,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}
_GRANITE = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.4,
    "logits_scaling": 0.7,
    "tie_word_embeddings": True,
}
_GATES = {r"\.(gate|router)\.": 2.0}


def _olmo_convolutions(disk: dict[str, Any], inside: Mapping[str, Any]) -> dict[str, Any]:
    """Published convolutions have the widths of q, k and v; transformers cuts the joint one in equal parts."""
    result = dict(disk)
    for name, joint in inside.items():
        if name.endswith("linear_attn.conv1d.weight"):
            stem = name.removesuffix("conv1d.weight")
            widths = [disk[f"{stem}{part}_proj.weight"].shape[0] for part in "qkv"]
            for part, piece in zip("qkv", joint.split(widths), strict=True):
                result[f"{stem}{part}_conv1d.weight"] = piece.clone()
    return result


FAMILIES = (
    Family(
        "mamba",
        _MAMBA1,
        {"base": {}, "bias": {"use_bias": True, "use_conv_bias": False, "num_hidden_layers": 1}},
    ),
    Family(
        "falcon_mamba",
        _MAMBA1,
        {"base": {"mixer_rms_eps": 1e-3}, "bias": {"use_bias": True, "num_hidden_layers": 1, "conv_kernel": 3}},
    ),
    Family(
        "nemotron_h",
        {
            **TINY,
            "num_hidden_layers": 4,
            "layers_block_type": ["linear_attention", "full_attention", "moe", "mlp"],
            "head_dim": 8,
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "ssm_state_size": 16,
            "n_groups": 2,
            "chunk_size": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "moe_shared_expert_intermediate_size": 32,
            "routed_scaling_factor": 1.5,
            "n_group": 2,
            "topk_group": 1,
        },
        {
            "base": {"_hub": {"layers_block_type": DROP, "layer_types": DROP, "hybrid_override_pattern": "M*E-"}},
            "latent": {"moe_latent_size": 32, "layers_block_type": ["linear_attention", "moe"], "num_hidden_layers": 2},
            "bias": {
                "layers_block_type": ["linear_attention", "full_attention", "mlp"],
                "num_hidden_layers": 3,
                "head_dim": 32,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "attention_bias": True,
                "mlp_bias": True,
                "use_bias": True,
                "use_conv_bias": False,
                "time_step_limit": [0.3, 0.9],
            },
        },
        gain={**_GATES, "e_score_correction_bias": 2.0},
    ),
    Family(
        "lfm2_moe",
        {
            **TINY,
            "num_hidden_layers": 2,
            "layer_types": ["conv", "full_attention"],
            "num_dense_layers": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "routed_scaling_factor": 1.5,
            "tie_word_embeddings": True,
        },
        {
            "base": {"_hub": {"tie_embedding": True, "tie_word_embeddings": DROP}},
            "raw_probs": {"norm_topk_prob": False, "use_expert_bias": False},
            "bias": {"conv_bias": True, "conv_L_cache": 4, "num_hidden_layers": 1, "layer_types": ["conv"]},
        },
        gain={**_GATES, "expert_bias": 2.0},
    ),
    Family(
        "granitemoehybrid",
        {
            **TINY,
            **_GRANITE,
            **_MAMBA2,
            "num_hidden_layers": 2,
            "layer_types": ["mamba", "attention"],
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 32,
            "position_embedding_type": "nope",
        },
        {
            "base": {},
            "rope": {"position_embedding_type": "rope"},
            "dense": {
                "num_local_experts": 0,
                "num_experts_per_tok": 0,
                "attention_bias": True,
                "mamba_proj_bias": True,
                "mamba_conv_bias": False,
                "tie_word_embeddings": False,
            },
        },
        gain=_GATES,
    ),
    Family(
        "falcon_h1",
        {
            **TINY,
            **_MAMBA2,
            "num_hidden_layers": 1,
            "head_dim": 8,
            "mamba_d_ssm": 64,
            "lm_head_multiplier": 0.7,
            "embedding_multiplier": 3.0,
            "mlp_multipliers": [0.8, 1.3],
            "key_multiplier": 0.6,
            "attention_out_multiplier": 0.7,
            "attention_in_multiplier": 1.2,
            "ssm_multipliers": [0.6, 0.7, 0.8, 1.2, 1.3],
            "ssm_in_multiplier": 1.1,
            "ssm_out_multiplier": 0.9,
        },
        {
            "base": {},
            "gated_norm": {
                "mamba_rms_norm": True,
                "mamba_norm_before_gate": False,
                "mamba_d_ssm": 32,
                "mamba_d_head": 8,
            },
            "norm_first": {"mamba_rms_norm": True, "mamba_norm_before_gate": True},
            "bias": {
                "attention_bias": True,
                "mlp_bias": True,
                "projectors_bias": True,
                "mamba_proj_bias": True,
                "mamba_conv_bias": False,
                "tie_word_embeddings": True,
            },
        },
    ),
    Family(
        "jamba",
        {
            **TINY,
            "num_hidden_layers": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "mamba_d_state": 8,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
            "mamba_dt_rank": 32,
            "use_mamba_kernels": False,
        },
        {
            "base": {"num_hidden_layers": 2},
            "bias": {
                "mamba_proj_bias": True,
                "mamba_conv_bias": False,
                "num_hidden_layers": 1,
                "tie_word_embeddings": True,
            },
        },
        gain=_GATES,
    ),
    Family(
        "recurrent_gemma",
        {
            **TINY,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "lru_width": 32,
            "attention_window_size": 7,
            "conv1d_width": 4,
            "logits_soft_cap": 2.0,
            "block_types": ["recurrent", "recurrent", "attention"],
            "tie_word_embeddings": True,
        },
        {
            "base": {},
            "bias_wide": {
                "hidden_size": 64,
                "lru_width": 64,
                "num_hidden_layers": 2,
                "block_types": ["recurrent", "attention"],
                "attention_bias": True,
            },
        },
    ),
    Family(
        "olmo_hybrid",
        {
            **TINY,
            "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 16,
        },
        {"base": {}, "positive": {"linear_allow_neg_eigval": False}},
        published=_olmo_convolutions,
    ),
    Family(
        "minimax",
        {
            **TINY,
            "num_hidden_layers": 2,
            "head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
            "block_size": 8,
            "num_local_experts": 3,
            "num_experts_per_tok": 2,
            "full_attn_alpha_factor": 1.2,
            "full_attn_beta_factor": 0.8,
            "linear_attn_alpha_factor": 0.9,
            "linear_attn_beta_factor": 1.1,
            "mlp_alpha_factor": 1.3,
            "mlp_beta_factor": 0.7,
        },
        {"base": {}},
        gain=_GATES,
    ),
    Family(
        "bamba",
        {**TINY, **_MAMBA2, "num_hidden_layers": 2, "attn_layer_indices": [1]},
        {
            "base": {},
            "bias": {"attention_bias": True, "mlp_bias": True, "mamba_proj_bias": True, "tie_word_embeddings": True},
        },
    ),
)
