"""Older decoders: layer norms with biases, parallel blocks, learned positions, ALiBi."""

from __future__ import annotations

from .spec import DROP, HIDDEN, TINY, VOCAB, Family

__all__ = ["FAMILIES"]

_WIDE64 = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1}
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_GPT2 = {"vocab_size": VOCAB, "n_positions": 64, "n_embd": HIDDEN, "n_layer": 2, "n_head": 4, "n_inner": 32, **_IDS}
_ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}

FAMILIES = (
    Family(
        "starcoder2",
        {**TINY, "sliding_window": 7, "hidden_act": "gelu_pytorch_tanh", "rope_theta": 100000.0},
        {
            "base": {"tie_word_embeddings": True},
            "no_bias": {"use_bias": False, "sliding_window": None},
            "wide": {**_WIDE64, "tie_word_embeddings": True},
        },
    ),
    Family(
        "stablelm",
        {**TINY, "rope_parameters": {**_ROTARY, "partial_rotary_factor": 0.25}, "layer_norm_eps": 1e-3},
        {
            "base": {},
            "qk_norm": {"qk_layernorm": True, "use_qkv_bias": True},
            "parallel_wide": {**_WIDE64, "use_parallel_residual": True, "tie_word_embeddings": True},
        },
    ),
    Family(
        "phi",
        {**TINY, "num_key_value_heads": 4, "rope_parameters": _ROTARY, "hidden_act": "gelu_new"},
        {
            "base": {},
            "qk_norm": {"qk_layernorm": True, "num_key_value_heads": 2},
            "wide": {**_WIDE64, "rope_parameters": {**_ROTARY, "partial_rotary_factor": 1.0}},
        },
    ),
    Family(
        "gpt2",
        _GPT2,
        {
            "base": {},
            "scaled": {"scale_attn_by_inverse_layer_idx": True},
            "unscaled": {"scale_attn_weights": False, "activation_function": "gelu"},
            "wide": {"n_embd": 64, "n_head": 2, "n_layer": 1, "tie_word_embeddings": False},
        },
    ),
    Family(
        "gpt_neox",
        {**TINY, "rope_parameters": {**_ROTARY, "partial_rotary_factor": 0.25}, "hidden_act": "gelu"},
        {
            "base": {"_hub": {"rotary_pct": 0.25, "rotary_emb_base": 10000, "partial_rotary_factor": DROP}},
            "serial": {"use_parallel_residual": False, "hidden_act": "gelu_new"},
            "no_bias_wide": {**_WIDE64, "attention_bias": False, "tie_word_embeddings": True},
        },
    ),
    Family(
        "gptj",
        {**_GPT2, "rotary_dim": 4},
        {"base": {}, "whole": {"n_embd": 64, "n_head": 2, "n_layer": 1, "rotary_dim": 32}},
    ),
    Family(
        "codegen",
        {**_GPT2, "rotary_dim": 4},
        {"base": {}, "whole": {"n_embd": 64, "n_head": 4, "n_layer": 1, "rotary_dim": 16}},
    ),
    Family(
        "gpt_bigcode",
        _GPT2,
        {
            "base": {},
            "heads": {"multi_query": False, "activation_function": "gelu"},
            "wide": {"n_embd": 64, "n_head": 2, "n_layer": 1, "tie_word_embeddings": False},
        },
    ),
    Family(
        "gpt_neo",
        {
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "num_layers": 2,
            "num_heads": 4,
            "intermediate_size": 32,
            "max_position_embeddings": 64,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 7,
            **_IDS,
        },
        {"base": {}, "wide": {"hidden_size": 64, "num_heads": 2, "num_layers": 1, "attention_types": [[["local"], 1]]}},
    ),
    Family(
        "falcon",
        {
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_hidden_size": 64,
            "rope_theta": 10000.0,
            **_IDS,
        },
        {
            "base": {},
            "new": {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True, "tie_word_embeddings": False},
            "alibi": {"_attention": "sdpa", "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
            "wide": {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "parallel_attn": False},
        },
    ),
    Family(
        "bloom",
        {"vocab_size": VOCAB, "hidden_size": HIDDEN, "n_layer": 2, "n_head": 4, **_IDS},
        {
            "base": {},
            "post_residual": {"apply_residual_connection_post_layernorm": True},
            "wide": {"hidden_size": 64, "n_head": 2, "n_layer": 1, "tie_word_embeddings": False},
        },
    ),
    Family(
        "opt",
        {
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 32,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": HIDDEN,
            "activation_function": "relu",
            **_IDS,
        },
        {
            "base": {},
            "post_norm": {"do_layer_norm_before": False, "word_embed_proj_dim": 64, "num_hidden_layers": 1},
            "no_bias_wide": {
                "enable_bias": False,
                "hidden_size": 64,
                "num_attention_heads": 2,
                "num_hidden_layers": 1,
                "word_embed_proj_dim": 64,
                "activation_function": "gelu",
            },
        },
    ),
    Family(
        "mpt",
        {
            "vocab_size": VOCAB,
            "d_model": HIDDEN,
            "n_heads": 4,
            "n_layers": 2,
            "expansion_ratio": 2,
            "max_seq_len": 64,
            **_IDS,
        },
        {
            "base": {},
            "clip": {"attn_config": {"clip_qkv": 0.7, "alibi": True, "alibi_bias_max": 4}},
            "wide": {"d_model": 64, "n_heads": 2, "n_layers": 1, "attn_config": {"softmax_scale": 0.3}},
        },
    ),
    Family(
        "persimmon",
        {**TINY, "num_key_value_heads": 4, "rope_parameters": _ROTARY, "hidden_act": "relu2"},
        {"base": {}, "no_qk_norm_wide": {**_WIDE64, "num_key_value_heads": 2, "qk_layernorm": False}},
    ),
)
