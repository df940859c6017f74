"""Decoders with latent attention."""

from __future__ import annotations

from .. import deepseek_v41, latent
from .case import Case, named

__all__ = ["CASES", "LATENT"]

LATENT = {"kv_lora_rank": 16, "q_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6}

_LONGCAT = named(
    "longcat_flash_ngram",
    **LATENT,
    hidden_size=96,
    ffn_hidden_size=48,
    expert_ffn_hidden_size=16,
    num_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
    moe_topk=3,
    n_routed_experts=4,
    zero_expert_num=2,
    zero_expert_type="identity",
    routed_scaling_factor=2.0,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    mla_scale_q_lora=True,
    mla_scale_kv_lora=True,
    ngram_vocab_size_ratio=3,
    emb_neighbor_num=4,
    emb_split_num=2,
    eos_token_id=2,
    attention_bias=False,
    tie_word_embeddings=False,
)

_V41 = named(
    "deepseek_v41",
    hidden_size=32,
    num_hidden_layers=7,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=32,
    qk_rope_head_dim=8,
    q_lora_rank=12,
    o_groups=2,
    o_lora_rank=10,
    max_position_embeddings=64,
    rms_norm_eps=1e-20,
    rope_theta=10000.0,
    compress_rope_theta=160000.0,
    rope_scaling={
        "rope_type": "yarn",
        "factor": 4,
        "beta_fast": 32,
        "beta_slow": 1,
        "original_max_position_embeddings": 16,
    },
    sliding_window=4,
    compress_ratios=[0, 2, 2, 2, 1, 1, 1, 0],
    kv_source_layer_ids=[1, 4],
    index_source_layer_ids=[1, 3, 4, 6],
    index_n_heads=2,
    index_head_dim=32,
    index_topk=3,
    candidate_source_layer_id=4,
    candidate_topk_blocks=3,
    candidate_block_size=2,
    moe_intermediate_size=12,
    n_routed_experts=4,
    n_shared_experts=1,
    num_experts_per_tok=2,
    scoring_func="sqrtsoftplus",
    topk_method="noaux_tc",
    norm_topk_prob=True,
    routed_scaling_factor=1.5,
    swiglu_limit=1.0,
    hc_mult=2,
    hc_sinkhorn_iters=4,
    hc_eps=1e-6,
    engram_layer_ids=[1, 3],
    engram_num_embeddings=[120, 300],
    engram_max_ngram_size=4,
    engram_vocab_size=11,
    engram_n_heads=2,
    engram_head_dim=32,
    engram_pad_token_id=2,
    engram_compressed_vocab_size=20,
    num_nextn_predict_layers=1,
    image_token_id=31,
    tie_word_embeddings=False,
)

CASES = {
    "longcat_flash_ngram": Case(_LONGCAT, latent.longcat_flash_ngram, length=40),
    "longcat_flash_ngram/pairs": Case(
        {**_LONGCAT, "emb_neighbor_num": 2, "emb_split_num": 1, "ngram_vocab_size_ratio": 2.5},
        latent.longcat_flash_ngram,
    ),
    "deepseek_v41": Case(_V41, deepseek_v41.deepseek_v41),
    "deepseek_v41/window": Case(
        _V41
        | {
            "num_hidden_layers": 3,
            "compress_ratios": [0, 0, 0],
            "kv_source_layer_ids": [],
            "index_source_layer_ids": [],
            "candidate_source_layer_id": -1,
            "engram_layer_ids": [0],
            "engram_num_embeddings": [90],
            "engram_max_ngram_size": 3,
            "num_experts_per_tok": 1,
            "scoring_func": "sigmoid",
            "swiglu_limit": 0.0,
        },
        deepseek_v41.deepseek_v41,
    ),
    "deepseek_v41/plain": Case(
        _V41
        | {
            "num_hidden_layers": 4,
            "q_lora_rank": 10,
            "compress_ratios": [3, 3, 3, 0],
            "kv_source_layer_ids": [0, 2],
            "index_source_layer_ids": [0, 1, 2],
            "candidate_source_layer_id": -1,
            "engram_layer_ids": [],
            "engram_num_embeddings": [],
            "rope_scaling": None,
            "gate_temp": 2.0,
            "scoring_func": "softmax",
            "swiglu_limit": 0.5,
            "hc_mult": 4,
        },
        deepseek_v41.deepseek_v41,
    ),
}
