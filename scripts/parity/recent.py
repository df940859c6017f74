"""Families of the newest transformers releases."""

from __future__ import annotations

from .hybrid import FAMILIES as _HYBRID
from .nested import FAMILIES as _NESTED
from .spec import Family

__all__ = ["FAMILIES"]

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
_TOWER = next(family.base for family in _NESTED if family.model_type == "qwen3_5")
FAMILIES = (
    Family("qwen4_exp_text", _QWEN4, {"base": {}, "more": _QWEN4_MORE}, gain={r"\.gate\.": 2.0}, modern=True),
    Family(
        "qwen4_exp",
        {
            **_TOWER,
            "text_config": {**_QWEN4, "rope_parameters": _TOWER["text_config"]["rope_parameters"]},
        },
        {"base": {}},
        gain={r"\.gate\.": 2.0},
        conditional=True,
        modern=True,
    ),
)
