"""Every float64 reference with the tiny configs that it is run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from . import deepseek_v41, dense, dense_more, experts, experts_more, latent, linear, looped, phi, recurrent
from .maths import Array, Draw

__all__ = ["CASES", "Case"]


@dataclass(frozen=True)
class Case:
    """A config in the published spelling, and the function that computes logits (L, V) from it."""

    config: dict[str, Any]
    reference: Callable[[dict[str, Any], Draw, Any], Array]
    length: int = 24

    @property
    def ids(self) -> Any:
        return np.random.default_rng(5).integers(1, self.config["vocab_size"], self.length)

    def run(self) -> tuple[Array, dict[str, Any]]:
        """Logits, and the checkpoint's tensors."""
        draw = Draw()
        return self.reference(self.config, draw, self.ids), draw.tensors


_TINY = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def _tiny(model_type: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": model_type, **_TINY, **changes}


def _telechat3(c: dict[str, Any], w: Draw, ids: Any) -> Array:
    freqs, factor = dense.telechat3_freqs(c)
    return dense.llama_like(c, w, ids, freqs=freqs, factor=factor)


_TELECHAT3 = _tiny(
    "telechat3",
    head_dim=8,
    max_position_embeddings=128,
    rope_scaling={
        "rope_type": "yarn",
        "factor": 4.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 32,
    },
)

_LING = {
    "num_experts": 4,
    "num_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 0,
    "norm_topk_prob": True,
    "use_bias": False,
    "use_qkv_bias": False,
}


_LATENT = {"kv_lora_rank": 16, "q_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6}

_LING3 = _tiny(
    "bailing_moe_v3",
    **{**_LING, **_LATENT, "num_hidden_layers": 4, "num_key_value_heads": 4, "num_experts": 6},
    head_dim=8,
    partial_rotary_factor=0.5,
    layer_group_size=2,
    n_group=3,
    topk_group=2,
    routed_scaling_factor=2.5,
    moe_shared_expert_intermediate_size=24,
    moe_router_enable_expert_bias=True,
    score_function="sigmoid",
    topk_method="noaux_tc",
    gated_attention_proj_granularity_type="head_wise",
    kda_lower_bound=-5,
    kda_safe_gate=True,
    no_kda_lora=True,
    rope_interleave=True,
    short_conv_kernel_size=4,
    use_mla_nope=False,
    use_qk_norm=True,
)
_LING3["first_k_dense_replace"] = 1

_LONGCAT = {
    **_LATENT,
    "model_type": "longcat_flash_ngram",
    "vocab_size": 32,
    "hidden_size": 96,
    "ffn_hidden_size": 48,
    "expert_ffn_hidden_size": 16,
    "num_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "moe_topk": 3,
    "n_routed_experts": 4,
    "zero_expert_num": 2,
    "zero_expert_type": "identity",
    "routed_scaling_factor": 2.0,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
    "ngram_vocab_size_ratio": 3,
    "emb_neighbor_num": 4,
    "emb_split_num": 2,
    "eos_token_id": 2,
    "attention_bias": False,
    "tie_word_embeddings": False,
}


_KIMI3 = {
    "model_type": "kimi_k3",
    "vocab_size": 32,
    "text_config": {
        **_LATENT,
        "model_type": "kimi_linear",
        "vocab_size": 32,
        "hidden_size": 32,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 48,
        "rms_norm_eps": 1e-2,  # large enough to see which norms have it
        "max_position_embeddings": 64,
        "linear_attn_config": {
            "full_attn_layers": [2, 5],
            "kda_layers": [1, 3, 4],
            "head_dim": 8,
            "num_heads": 4,
            "short_conv_kernel_size": 4,
            "use_full_rank_gate": True,
            "gate_lower_bound": -5.0,
        },
        "hidden_act": "situ",
        "activation_situ_beta": 1.0,
        "activation_situ_linear_beta": 2.0,
        "attn_res_block_size": 2,
        "mla_use_nope": True,
        "mla_use_output_gate": True,
        "num_experts": 4,
        "num_experts_per_token": 2,
        "num_shared_experts": 2,
        "moe_intermediate_size": 16,
        "moe_router_activation_func": "sigmoid",
        "moe_renormalize": True,
        "routed_scaling_factor": 2.0,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "use_grouped_topk": True,
        "num_expert_group": 1,
        "topk_group": 1,
        "routed_expert_hidden_size": 16,
        "latent_moe_use_norm": True,
        "tie_word_embeddings": False,
    },
}


_PRISM_LAYERS = {
    "model.layers.0.linear_attn.": ("in_proj_qkv", "in_proj_z", "out_proj"),
    "model.layers.1.self_attn.": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "model.layers.0.mlp.": ("gate_proj", "up_proj", "down_proj"),
    "model.layers.1.mlp.": ("gate_proj", "up_proj"),
}
_PRISM = {
    "model_type": "prism_hadamard_qwen35",
    "schema_version": 2,
    "base_model_type": "qwen3_5",
    "tensor_namespace": "mlx-vlm-qwen3_5",
    "gdn_activation_layout": "grouped",
    "components": {"text": True, "vision": False, "mtp": False},
    "modules": [
        {"path": "model.embed_tokens", "block": 16, "embedding": True, "dtype": "float16"},
        {"path": "lm_head", "block": 32, "embedding": False, "dtype": "float16"},
        *(
            {"path": at + name, "block": 16, "embedding": False, "dtype": "float16"}
            for at, names in _PRISM_LAYERS.items()
            for name in names
        ),
    ],
    "vocab_size": 32,
    "text_config": {
        "model_type": "qwen3_5_text",
        "vocab_size": 32,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_conv_kernel_dim": 4,
        "full_attention_interval": 2,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.25, "rope_type": "default"},
    },
}


def _puzzle(attention: dict[str, Any], ffn: dict[str, Any]) -> dict[str, Any]:
    usual = {"no_op": False, "replace_with_linear": False, "sparsify": None}
    return {"attention": {**usual, "window_length": None, **attention}, "ffn": {**usual, **ffn}}


_PHI3_SMALL = {
    "model_type": "phi3small",
    "vocab_size": 32,
    "hidden_size": 32,
    "ff_intermediate_size": 48,
    "hidden_act": "gegelu",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "layer_norm_epsilon": 1e-5,
    "gegelu_limit": 20.0,
    "mup_use_scaling": True,
    "mup_attn_multiplier": 1.5,
    "mup_embedding_multiplier": 10.0,
    "mup_width_multiplier": 2.0,
    "rope_embedding_base": 1000000,
    "rope_position_scale": 1.0,
    "dense_attention_every_n_layers": 2,
    "blocksparse_block_size": 4,
    "blocksparse_num_local_blocks": 2,
    "blocksparse_vert_stride": 5,
    "blocksparse_homo_head_pattern": False,
    "tie_word_embeddings": True,
}

_V41 = {
    "model_type": "deepseek_v41",
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "qk_rope_head_dim": 8,
    "q_lora_rank": 12,
    "o_groups": 2,
    "o_lora_rank": 10,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-20,
    "rope_theta": 10000.0,
    "compress_rope_theta": 160000.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 4,
        "beta_fast": 32,
        "beta_slow": 1,
        "original_max_position_embeddings": 16,
    },
    "sliding_window": 4,
    "compress_ratios": [0, 2, 2, 2, 1, 1, 1, 0],
    "kv_source_layer_ids": [1, 4],
    "index_source_layer_ids": [1, 3, 4, 6],
    "index_n_heads": 2,
    "index_head_dim": 32,
    "index_topk": 3,
    "candidate_source_layer_id": 4,
    "candidate_topk_blocks": 3,
    "candidate_block_size": 2,
    "moe_intermediate_size": 12,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "scoring_func": "sqrtsoftplus",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "swiglu_limit": 1.0,
    "hc_mult": 2,
    "hc_sinkhorn_iters": 4,
    "hc_eps": 1e-6,
    "engram_layer_ids": [1, 3],
    "engram_num_embeddings": [120, 300],
    "engram_max_ngram_size": 4,
    "engram_vocab_size": 11,
    "engram_n_heads": 2,
    "engram_head_dim": 32,
    "engram_pad_token_id": 2,
    "engram_compressed_vocab_size": 20,
    "num_nextn_predict_layers": 1,
    "image_token_id": 31,
    "tie_word_embeddings": False,
}

CASES: dict[str, Case] = {
    "internlm2": Case(_tiny("internlm2", bias=False), dense.internlm2),
    "internlm2/bias": Case(_tiny("internlm2", bias=True, num_key_value_heads=1), dense.internlm2),
    "mimo": Case(_tiny("mimo", attention_bias=True, hidden_act="silu"), partial(dense.llama_like, qkv_bias=True)),
    "telechat3": Case(_TELECHAT3, _telechat3),
    "minicpm": Case(
        _tiny("minicpm", scale_emb=12, scale_depth=1.4, dim_model_base=16, tie_word_embeddings=True), dense.minicpm
    ),
    "minicpm/untied": Case(_tiny("minicpm", scale_emb=3, scale_depth=0.7, dim_model_base=8), dense.minicpm),
    "exaone": Case(
        _tiny("exaone", num_layers=2, layer_norm_epsilon=1e-5, activation_function="silu", tie_word_embeddings=True),
        dense.exaone,
    ),
    "qwen": Case(
        _tiny("qwen", layer_norm_epsilon=1e-6, kv_channels=8, intermediate_size=96, num_key_value_heads=None),
        dense.qwen,
    ),
    "plamo": Case(_tiny("plamo", n_shared_head=2), dense.plamo),
    "lille-130m": Case(
        {
            "model_type": "lille-130m",
            "block_size": 64,
            "layer_norm_eps": 1e-5,
            "n_embd": 96,
            "n_head": 4,
            "n_kv_heads": 2,
            "n_layer": 2,
            "rope_theta": 10000.0,
            "vocab_size": 32,
            "tie_word_embeddings": True,
        },
        dense.lille,
    ),
    "rwkv7": Case(
        {
            "model_type": "rwkv7",
            "vocab_size": 32,
            "hidden_size": 32,
            "head_dim": 8,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "norm_eps": 1e-5,
            "decay_low_rank_dim": 8,
            "gate_low_rank_dim": 16,
            "a_low_rank_dim": 8,
            "v_low_rank_dim": 8,
            "hidden_act": "sqrelu",
            "tie_word_embeddings": False,
        },
        recurrent.rwkv7,
        length=40,
    ),
    "plamo2": Case(
        _tiny(
            "plamo2",
            num_hidden_layers=4,
            hidden_size_per_head=8,
            attention_window_size=7,
            full_attention_idx=[3],
            mamba_d_state=16,
            mamba_d_conv=4,
            mamba_num_heads=4,
            mamba_step=2,
            mamba_chunk_size=256,
            mamba_enabled=True,
            tie_word_embeddings=True,
        ),
        recurrent.plamo2,
    ),
    "deepseek": Case(
        _tiny(
            "deepseek",
            n_routed_experts=4,
            n_shared_experts=2,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            first_k_dense_replace=1,
            norm_topk_prob=False,
            scoring_func="softmax",
        ),
        experts.deepseek,
    ),
    "Klear": Case(
        _tiny(
            "Klear",
            attention_bias=False,
            mlp_only_layers=[0],
            num_experts=4,
            num_experts_per_tok=2,
            decoder_sparse_step=1,
            n_shared_experts=1,
            moe_intermediate_size=16,
            norm_topk_prob=True,
        ),
        experts.klear,
    ),
    "bailing_moe": Case(_tiny("bailing_moe", **_LING), experts.bailing_moe),
    "bailing_moe/second": Case(
        _tiny(
            "bailing_moe",
            **{**_LING, "num_experts": 6, "first_k_dense_replace": 1},
            use_qk_norm=True,
            partial_rotary_factor=0.5,
            score_function="sigmoid",
            moe_router_enable_expert_bias=True,
            n_group=3,
            topk_group=2,
            routed_scaling_factor=2.5,
        ),
        experts.bailing_moe,
    ),
    "openelm": Case(
        {
            "model_type": "openelm",
            "head_dim": 8,
            "num_transformer_layers": 2,
            "model_dim": 32,
            "vocab_size": 32,
            "ffn_dim_divisor": 16,
            "num_query_heads": [4, 2],
            "num_kv_heads": [2, 1],
            "ffn_multipliers": [1.0, 1.75],
            "ffn_with_glu": True,
            "normalize_qk_projections": True,
            "share_input_output_layers": True,
            "rope_freq_constant": 10000,
            "max_context_length": 64,
        },
        dense_more.openelm,
    ),
    "baichuan_m1": Case(
        _tiny(
            "baichuan_m1",
            sliding_window=7,
            sliding_window_layers=[1],
            conv_window=2,
            num_swa_attention_heads=8,
            num_swa_key_value_heads=4,
        ),
        dense_more.baichuan_m1,
    ),
    "plamo3": Case(
        _tiny(
            "plamo3",
            head_dim=8,
            window_size=7,
            sliding_window_pattern=2,
            rope_theta=1000000.0,
            rope_local_theta=10000.0,
            tie_word_embeddings=True,
        ),
        dense_more.plamo3,
    ),
    "phi3small": Case(_PHI3_SMALL, phi.phi3small, length=40),
    "phi3small/homo": Case(
        {
            **_PHI3_SMALL,
            "blocksparse_homo_head_pattern": True,
            "mup_use_scaling": False,
            "rope_position_scale": 2.0,
            "gegelu_limit": 1.0,
        },
        phi.phi3small,
        length=40,
    ),
    "phixtral": Case(
        {
            "model_type": "phixtral",
            "vocab_size": 32,
            "n_embd": 32,
            "n_head": 4,
            "n_layer": 2,
            "n_positions": 64,
            "n_inner": None,
            "n_head_kv": None,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "rotary_dim": 4,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "tie_word_embeddings": False,
        },
        phi.phixtral,
    ),
    "nanbeige": Case(_tiny("nanbeige", head_dim=16, num_loops=2, skip_loop_final_norm=False), looped.nanbeige),
    "nanbeige/plain": Case(_tiny("nanbeige", num_loops=3, skip_loop_final_norm=True), looped.nanbeige),
    "iquestloopcoder": Case(_tiny("iquestloopcoder", loop_num=2, loop_window_size=5), looped.iquestloopcoder),
    "iquestloopcoder/thrice": Case(
        _tiny("iquestloopcoder", head_dim=16, loop_num=3, loop_window_size=3), looped.iquestloopcoder
    ),
    "hunyuan": Case(
        _tiny(
            "hunyuan",
            **{"num_hidden_layers": 4, "tie_word_embeddings": True},
            num_experts=4,
            moe_topk=1,
            num_shared_expert=1,
            use_mixed_mlp_moe=True,
            use_qk_norm=True,
            use_cla=True,
            cla_share_factor=2,
            kv_lora_rank=512,
            rope_scaling={"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
        ),
        experts_more.hunyuan,
    ),
    "hunyuan/lists": Case(
        _tiny(
            "hunyuan",
            **{"num_hidden_layers": 3, "tie_word_embeddings": True},
            attention_head_dim=16,
            num_experts=4,
            moe_topk=[1, 2, 3],
            moe_intermediate_size=[16, 24, 32],
            moe_layer_num_skipped=1,
            num_shared_expert=[1, 2, 1],
            use_mixed_mlp_moe=True,
            use_qk_norm=False,
            use_cla=True,
            cla_share_factor=3,
        ),
        experts_more.hunyuan,
    ),
    "hunyuan/dense": Case(
        _tiny("hunyuan", tie_word_embeddings=True, num_experts=1, moe_topk=1, use_qk_norm=True), experts_more.hunyuan
    ),
    "nemotron-nas": Case(
        _tiny(
            "nemotron-nas",
            **{"num_hidden_layers": 4, "num_key_value_heads": None, "intermediate_size": None},
            block_configs=[
                _puzzle({"n_heads_in_group": 2}, {"ffn_mult": 1.5}),
                _puzzle({"no_op": True}, {"replace_with_linear": True}),
                _puzzle({"replace_with_linear": True}, {"no_op": True}),
                _puzzle({"n_heads_in_group": 4}, {"ffn_mult": 13.5}),
            ],
        ),
        dense_more.nemotron_nas,
    ),
    "step3p5": Case(
        _tiny(
            "step3p5",
            **{"num_hidden_layers": 4, "rope_theta": [5000000.0, 10000.0, 10000.0, 5000000.0, 10000.0]},
            num_attention_groups=2,
            head_dim=16,
            layer_types=[f"{kind}_attention" for kind in ("full", "sliding", "sliding", "full", "sliding")],
            sliding_window=5,
            attention_other_setting={
                "attention_type": "sliding_attention",
                "num_attention_heads": 6,
                "num_attention_groups": 3,
                "head_dim": 16,
            },
            partial_rotary_factors=[0.5, 1.0, 1.0, 0.5, 1.0],
            yarn_only_types=["full_attention"],
            rope_scaling={
                "rope_type": "llama3",
                "factor": 2.0,
                "original_max_position_embeddings": 32,
                "low_freq_factor": 1.0,
                "high_freq_factor": 32.0,
            },
            use_head_wise_attn_gate=True,
            use_rope_layers=[],
            moe_layers_enum="1,2,3",
            moe_num_experts=4,
            moe_top_k=2,
            moe_intermediate_size=16,
            share_expert_dim=24,
            moe_router_activation="sigmoid",
            moe_router_scaling_factor=3.0,
            use_moe_router_bias=True,
            norm_expert_weight=True,
            swiglu_limits=[0.0, 0.0, 0.3, 0.5, 0.0],
            swiglu_limits_shared=[0.0, 0.4, 0.0, 0.6, 0.0],
        ),
        experts_more.step3p5,
    ),
    "bailing_moe_linear": Case(
        _tiny(
            "bailing_moe_linear",
            **{**_LING, "num_hidden_layers": 5, "num_experts": 6, "first_k_dense_replace": 1},
            layer_group_size=2,
            group_norm_size=2,
            use_qk_norm=True,
            partial_rotary_factor=0.5,
            score_function="sigmoid",
            moe_router_enable_expert_bias=True,
            n_group=1,
            topk_group=1,
            routed_scaling_factor=2.5,
        ),
        linear.bailing_moe_linear,
        length=40,
    ),
    "bailing_moe_v3": Case(_LING3, linear.bailing_moe_v3, length=40),
    "bailing_hybrid/own": Case(
        {
            **_LING3,
            "model_type": "bailing_hybrid",
            "architectures": ["BailingMoeV3ForCausalLM"],
            "num_hidden_layers": 5,
            "layer_group_size": 2,
            "q_lora_rank": None,
        },
        linear.bailing_moe_v3,
        length=40,
    ),
    "longcat_flash_ngram": Case(_LONGCAT, latent.longcat_flash_ngram, length=40),
    "longcat_flash_ngram/pairs": Case(
        {**_LONGCAT, "emb_neighbor_num": 2, "emb_split_num": 1, "ngram_vocab_size_ratio": 2.5},
        latent.longcat_flash_ngram,
    ),
    "kimi_k3": Case(_KIMI3, linear.kimi_k3, length=40),
    "spark2_5": Case(
        _tiny(
            "spark2_5",
            **{"num_hidden_layers": 4, "rope_theta": None, "tie_word_embeddings": True},
            head_dim=16,
            hidden_act="gelu",
            sliding_window=5,
            layer_types=["sliding_attention"] * 3 + ["full_attention"],
            rope_parameters={
                "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 5000000.0, "rope_type": "default"},
                "sliding_attention": {"partial_rotary_factor": 1.0, "rope_theta": 10000.0, "rope_type": "default"},
            },
            headwise_attn_output_gate=True,
            gate_attn_act_mode="sigmoid",
            attention_bias=False,
            mlp_bias=False,
        ),
        dense_more.spark2_5,
    ),
    "talkie": Case(
        {
            "model_type": "talkie",
            "vocab_size": 32,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "head_dim": 8,
            "max_position_embeddings": 64,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": False,
        },
        dense_more.talkie,
    ),
    "gear": Case(
        _tiny(
            "gear",
            **{"num_hidden_layers": 4, "rope_theta": 1000000.0, "tie_word_embeddings": True, "rms_norm_eps": 1e-6},
            head_dim=16,
            layer_types=["conv_mixer", "sliding_attention", "conv_mixer", "full_attention"],
            sliding_window=5,
            conv_L_cache=3,
            rope_local_base_freq=10000.0,
            hidden_activation="gelu_pytorch_tanh",
            query_pre_attn_scalar=None,
            use_bidirectional_attention=False,
        ),
        dense_more.gear,
    ),
    "afm7": Case(
        {
            "model_type": "afm7",
            "vocab_size": 32,
            "hidden_dim": 32,
            "num_layers": 4,
            "num_kv_reuse_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 2,
            "hidden_dim_scale_factor": 3.25,
            "rope_theta": 50000,
            "rms_norm_eps": 1e-5,
        },
        dense_more.afm7,
    ),
    "prism_hadamard_qwen35": Case(_PRISM, linear.prism, length=40),
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
