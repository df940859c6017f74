"""Causal models of transformers that few people run, each on its usual config."""

from __future__ import annotations

from .moe_more import LATENT
from .nested import GEMMA4
from .spec import HIDDEN, TINY, VOCAB, Family

__all__ = ["FAMILIES"]

_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_GATES = {r"\.(gate|router)\.": 2.0, "e_score_correction_bias": 2.0}
_MIXED = {"num_hidden_layers": 2, "sliding_window": 7, "layer_types": ["full_attention", "sliding_attention"]}
_GRANITE = {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.4}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

FAMILIES = (
    Family(
        "qwen2_5_vl",
        {
            "text_config": {
                **TINY,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [1, 1, 2]},
            },
            "vision_config": {
                "depth": 1,
                "hidden_size": 8,
                "intermediate_size": 8,
                "out_hidden_size": HIDDEN,
                "num_heads": 1,
                "patch_size": 4,
            },
        },
        {"base": {}},
        conditional=True,
    ),
    Family(
        "llama4",
        {
            "text_config": {
                **TINY,
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
            "vision_config": {
                "hidden_size": 8,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "image_size": 8,
                "patch_size": 4,
                "projector_input_dim": 8,
                "projector_output_dim": 8,
                "vision_output_dim": 8,
            },
            "image_token_index": 29,
        },
        {"base": {}},
        conditional=True,
        gain=_GATES,
    ),
    Family(
        "gemma4_unified_text",
        {k: v for k, v in GEMMA4.items() if "per_layer_input" not in k},
        {"base": {}},
        modern=True,
    ),
    Family(
        "hyperclovax",
        {**TINY, **_GRANITE, "head_dim": 8, "logits_scaling": 0.7},
        {"base": {}, "pre_norm": {"use_post_norm": False, "attention_bias": True}},
    ),
    Family(
        "granitemoe_swa",
        {
            **TINY,
            **_GRANITE,
            **_MIXED,
            "num_local_experts": 3,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 32,
        },
        {"base": {}},
        gain=_GATES,
    ),
    Family(
        "kolibri1",
        {**TINY, **_EXPERTS, **_MIXED, "head_dim": 8, "shared_expert_intermediate_size": 32},
        {"base": {}},
        modern=True,
        gain=_GATES,
    ),
    Family(
        "zaya",
        {**TINY, **_EXPERTS, "head_dim": 8, "num_experts_per_tok": 1, "router_hidden_size": 32},
        {
            "base": {},
            "window": {
                "layer_types": ["hybrid_sliding", "hybrid"],
                "sliding_window": 5,
                "attention_bias": True,
                "lm_head_bias": True,
                "num_key_value_heads": 4,
                "cca_time0": 3,
            },
        },
        modern=True,
    ),
    Family(
        "axk2",
        {
            **TINY,
            **LATENT,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "mlp_layer_types": ["dense", "sparse"],
            "index_topk": 6,
            "index_head_dim": 16,
            "index_n_heads": 8,
            "gated_norm_rank": 16,
        },
        {"base": {}, "groups": {"n_group": 2, "topk_group": 1, "index_topk": 64}},
        modern=True,
        gain=_GATES,
    ),
    Family("doge", {**TINY}, {"base": {}}),
    Family(
        "aria_text",
        {**TINY, "moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1, "num_hidden_layers": 1},
        {"base": {}},
        gain=_GATES,
    ),
    Family(
        "biogpt",
        {k: v for k, v in TINY.items() if k != "num_key_value_heads"} | {"max_position_embeddings": 64},
        {"base": {}},
    ),
    Family(
        "openai-gpt",
        {"vocab_size": VOCAB, "n_positions": 64, "n_embd": HIDDEN, "n_layer": 2, "n_head": 4, **_IDS},
        {"base": {}},
    ),
    Family(
        "rwkv",
        {
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "num_hidden_layers": 2,
            "attention_hidden_size": HIDDEN,
            "intermediate_size": 32,
            "context_length": 64,
            **_IDS,
        },
        {"base": {}},
    ),
    Family(
        "llava",
        {
            "text_config": {**TINY, "model_type": "qwen2", "rope_theta": 1000000.0},
            "vision_config": {
                "model_type": "clip_vision_model",
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "image_size": 8,
                "patch_size": 4,
            },
            "image_token_index": 29,
        },
        {"base": {}},
        conditional=True,
    ),
    Family(
        "exaone4_5",
        {
            "text_config": {**TINY, "model_type": "exaone4", "sliding_window": 7, "sliding_window_pattern": 2},
            "vision_config": {
                "depth": 1,
                "hidden_size": 8,
                "intermediate_size": 8,
                "out_hidden_size": HIDDEN,
                "num_heads": 1,
                "num_key_value_heads": 1,
                "patch_size": 4,
            },
            "image_token_id": 29,
            "video_token_id": 30,
        },
        {"base": {}},
        conditional=True,
        modern=True,
    ),
)
