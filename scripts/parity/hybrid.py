"""Families with recurrent, convolutional or linear-attention layers."""

from __future__ import annotations

from .spec import DROP, HIDDEN, TINY, VOCAB, Family, Shape

__all__ = ["FAMILIES"]

_NEXT_HEAD = 16


def _next_mtp(experts: int, width: int, heads: int) -> dict[str, Shape]:
    layer = "mtp.layers.0."
    one = {"gate_proj": (width, HIDDEN), "up_proj": (width, HIDDEN), "down_proj": (HIDDEN, width)}
    shapes: dict[str, Shape] = {
        "mtp.fc.weight": (HIDDEN, 2 * HIDDEN),
        "mtp.norm.weight": (HIDDEN,),
        "mtp.pre_fc_norm_embedding.weight": (HIDDEN,),
        "mtp.pre_fc_norm_hidden.weight": (HIDDEN,),
        f"{layer}input_layernorm.weight": (HIDDEN,),
        f"{layer}post_attention_layernorm.weight": (HIDDEN,),
        f"{layer}self_attn.q_proj.weight": (2 * heads * _NEXT_HEAD, HIDDEN),
        f"{layer}self_attn.k_proj.weight": (_NEXT_HEAD, HIDDEN),
        f"{layer}self_attn.v_proj.weight": (_NEXT_HEAD, HIDDEN),
        f"{layer}self_attn.o_proj.weight": (HIDDEN, heads * _NEXT_HEAD),
        f"{layer}self_attn.q_norm.weight": (_NEXT_HEAD,),
        f"{layer}self_attn.k_norm.weight": (_NEXT_HEAD,),
        f"{layer}mlp.gate.weight": (experts, HIDDEN),
        f"{layer}mlp.shared_expert_gate.weight": (1, HIDDEN),
    }
    for prefix in [f"experts.{i}" for i in range(experts)] + ["shared_expert"]:
        shapes |= {f"{layer}mlp.{prefix}.{name}.weight": shape for name, shape in one.items()}
    return shapes


FAMILIES = (
    Family(
        "qwen3_next",
        {
            **TINY,
            "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": _NEXT_HEAD,
            "linear_num_key_heads": 1,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "linear_conv_kernel_dim": 4,
            "num_experts": 3,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 12,
            "shared_expert_intermediate_size": 12,
            "intermediate_size": 24,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0, "partial_rotary_factor": 0.25},
        },
        {
            "base": {"_hub": {"layer_types": DROP, "full_attention_interval": 2}},
            "mtp": {"_hub": {"layer_types": DROP, "full_attention_interval": 2}},
            "raw_probs": {"norm_topk_prob": False},
            "dense_mix": {
                "mlp_only_layers": [0],
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 16,
                "linear_conv_kernel_dim": 3,
                "num_hidden_layers": 1,
                "layer_types": ["linear_attention"],
                "tie_word_embeddings": True,
                "attention_bias": True,
            },
            "wide": {
                "num_hidden_layers": 1,
                "layer_types": ["full_attention"],
                "head_dim": 32,
                "num_attention_heads": 1,
                "decoder_sparse_step": 2,
                "attention_bias": True,
                "tie_word_embeddings": True,
            },
        },
        extra={"mtp": _next_mtp(3, 12, 2)},
        inert=("mtp",),
        gain={r"\.gate\.": 2.0},
    ),
    Family(
        "mamba2",
        {
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "num_hidden_layers": 2,
            "num_heads": 4,
            "head_dim": 16,
            "state_size": 16,
            "expand": 2,
            "n_groups": 2,
            "conv_kernel": 4,
            "chunk_size": 8,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        {
            "base": {},
            "limits": {"time_step_limit": [0.3, 0.9], "layer_norm_epsilon": 1e-2},
            "one_group": {"n_groups": 1, "use_bias": True, "use_conv_bias": False, "num_hidden_layers": 1},
            "tied": {"tie_word_embeddings": True, "conv_kernel": 3, "num_hidden_layers": 1},
        },
    ),
    Family(
        "lfm2",
        {
            **TINY,
            "num_hidden_layers": 3,
            "layer_types": ["conv", "full_attention", "conv"],
            "intermediate_size": 48,
            "block_multiple_of": 32,
            "block_ffn_dim_multiplier": 1.0,
            "block_auto_adjust_ff_dim": True,
            "conv_L_cache": 3,
            "tie_word_embeddings": True,
            "rope_theta": 1000000.0,
        },
        {
            "base": {
                "_hub": {
                    "layer_types": DROP,
                    "full_attn_idxs": [1],
                    "intermediate_size": DROP,
                    "block_ff_dim": 48,
                    "conv_dim": HIDDEN,
                    "block_dim": HIDDEN,
                    "tie_embedding": True,
                    "tie_word_embeddings": DROP,
                }
            },
            "bias": {
                "conv_bias": True,
                "conv_L_cache": 4,
                "block_auto_adjust_ff_dim": False,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "layer_types": ["conv", "full_attention"],
                "tie_word_embeddings": False,
            },
            "multiplier_wide": {
                "block_ffn_dim_multiplier": 1.5,
                "block_multiple_of": 32,
                "hidden_size": 32,
                "num_attention_heads": 1,
                "num_key_value_heads": 1,
                "num_hidden_layers": 1,
                "layer_types": ["full_attention"],
            },
        },
    ),
)
