"""Decoders without experts: Llama with other names, norms, windows, or layers that are run again."""

from __future__ import annotations

from functools import partial
from typing import Any

from .. import dense, dense_more, looped, phi
from ..maths import Array, Draw
from .case import Case, named, tiny

__all__ = ["CASES"]


def _telechat3(c: dict[str, Any], w: Draw, ids: Any) -> Array:
    freqs, factor = dense.telechat3_freqs(c)
    return dense.llama_like(c, w, ids, freqs=freqs, factor=factor)


_TELECHAT3 = tiny(
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


def _puzzle(attention: dict[str, Any], ffn: dict[str, Any]) -> dict[str, Any]:
    usual = {"no_op": False, "replace_with_linear": False, "sparsify": None}
    return {"attention": {**usual, "window_length": None, **attention}, "ffn": {**usual, **ffn}}


_PHI3_SMALL = named(
    "phi3small",
    hidden_size=32,
    ff_intermediate_size=48,
    hidden_act="gegelu",
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    layer_norm_epsilon=1e-5,
    gegelu_limit=20.0,
    mup_use_scaling=True,
    mup_attn_multiplier=1.5,
    mup_embedding_multiplier=10.0,
    mup_width_multiplier=2.0,
    rope_embedding_base=1000000,
    rope_position_scale=1.0,
    dense_attention_every_n_layers=2,
    blocksparse_block_size=4,
    blocksparse_num_local_blocks=2,
    blocksparse_vert_stride=5,
    blocksparse_homo_head_pattern=False,
    tie_word_embeddings=True,
)

CASES = {
    "internlm2": Case(tiny("internlm2", bias=False), dense.internlm2),
    "internlm2/bias": Case(tiny("internlm2", bias=True, num_key_value_heads=1), dense.internlm2),
    "mimo": Case(tiny("mimo", attention_bias=True, hidden_act="silu"), partial(dense.llama_like, qkv_bias=True)),
    "telechat3": Case(_TELECHAT3, _telechat3),
    "minicpm": Case(
        tiny("minicpm", scale_emb=12, scale_depth=1.4, dim_model_base=16, tie_word_embeddings=True), dense.minicpm
    ),
    "minicpm/untied": Case(tiny("minicpm", scale_emb=3, scale_depth=0.7, dim_model_base=8), dense.minicpm),
    "exaone": Case(
        tiny("exaone", num_layers=2, layer_norm_epsilon=1e-5, activation_function="silu", tie_word_embeddings=True),
        dense.exaone,
    ),
    "qwen": Case(
        tiny("qwen", layer_norm_epsilon=1e-6, kv_channels=8, intermediate_size=96, num_key_value_heads=None),
        dense.qwen,
    ),
    "plamo": Case(tiny("plamo", n_shared_head=2), dense.plamo),
    "lille-130m": Case(
        named(
            "lille-130m",
            block_size=64,
            layer_norm_eps=1e-5,
            n_embd=96,
            n_head=4,
            n_kv_heads=2,
            n_layer=2,
            rope_theta=10000.0,
            tie_word_embeddings=True,
        ),
        dense.lille,
    ),
    "openelm": Case(
        named(
            "openelm",
            head_dim=8,
            num_transformer_layers=2,
            model_dim=32,
            ffn_dim_divisor=16,
            num_query_heads=[4, 2],
            num_kv_heads=[2, 1],
            ffn_multipliers=[1.0, 1.75],
            ffn_with_glu=True,
            normalize_qk_projections=True,
            share_input_output_layers=True,
            rope_freq_constant=10000,
            max_context_length=64,
        ),
        dense_more.openelm,
    ),
    "baichuan_m1": Case(
        tiny(
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
        tiny(
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
    "nemotron-nas": Case(
        tiny(
            "nemotron-nas",
            num_hidden_layers=4,
            num_key_value_heads=None,
            intermediate_size=None,
            block_configs=[
                _puzzle({"n_heads_in_group": 2}, {"ffn_mult": 1.5}),
                _puzzle({"no_op": True}, {"replace_with_linear": True}),
                _puzzle({"replace_with_linear": True}, {"no_op": True}),
                _puzzle({"n_heads_in_group": 4}, {"ffn_mult": 13.5}),
            ],
        ),
        dense_more.nemotron_nas,
    ),
    "spark2_5": Case(
        tiny(
            "spark2_5",
            num_hidden_layers=4,
            rope_theta=None,
            tie_word_embeddings=True,
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
        named(
            "talkie",
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            head_dim=8,
            max_position_embeddings=64,
            rope_theta=1000000.0,
            tie_word_embeddings=False,
        ),
        dense_more.talkie,
    ),
    "gear": Case(
        tiny(
            "gear",
            num_hidden_layers=4,
            rope_theta=1000000.0,
            tie_word_embeddings=True,
            rms_norm_eps=1e-6,
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
        named(
            "afm7",
            hidden_dim=32,
            num_layers=4,
            num_kv_reuse_layers=2,
            num_heads=4,
            num_kv_heads=2,
            hidden_dim_scale_factor=3.25,
            rope_theta=50000,
            rms_norm_eps=1e-5,
        ),
        dense_more.afm7,
    ),
    "nanbeige": Case(tiny("nanbeige", head_dim=16, num_loops=2, skip_loop_final_norm=False), looped.nanbeige),
    "nanbeige/plain": Case(tiny("nanbeige", num_loops=3, skip_loop_final_norm=True), looped.nanbeige),
    "iquestloopcoder": Case(tiny("iquestloopcoder", loop_num=2, loop_window_size=5), looped.iquestloopcoder),
    "iquestloopcoder/thrice": Case(
        tiny("iquestloopcoder", head_dim=16, loop_num=3, loop_window_size=3), looped.iquestloopcoder
    ),
}
