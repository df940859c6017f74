"""Decoders with recurrent layers: RWKV, Mamba, linear and gated delta attention."""

from __future__ import annotations

from .. import linear, recurrent
from .case import Case, named, tiny
from .experts import LING_GROUPS
from .latent import LATENT

__all__ = ["CASES"]

_LING3 = tiny(
    "bailing_moe_v3",
    **LING_GROUPS,
    **LATENT,
    num_hidden_layers=4,
    num_key_value_heads=4,
    head_dim=8,
    layer_group_size=2,
    moe_shared_expert_intermediate_size=24,
    topk_method="noaux_tc",
    gated_attention_proj_granularity_type="head_wise",
    kda_lower_bound=-5,
    kda_safe_gate=True,
    no_kda_lora=True,
    rope_interleave=True,
    short_conv_kernel_size=4,
    use_mla_nope=False,
)

_KIMI3 = named(
    "kimi_k3",
    text_config=named(
        "kimi_linear",
        **LATENT,
        hidden_size=32,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=48,
        rms_norm_eps=1e-2,  # large enough to see which norms have it
        max_position_embeddings=64,
        linear_attn_config={
            "full_attn_layers": [2, 5],
            "kda_layers": [1, 3, 4],
            "head_dim": 8,
            "num_heads": 4,
            "short_conv_kernel_size": 4,
            "use_full_rank_gate": True,
            "gate_lower_bound": -5.0,
        },
        hidden_act="situ",
        activation_situ_beta=1.0,
        activation_situ_linear_beta=2.0,
        attn_res_block_size=2,
        mla_use_nope=True,
        mla_use_output_gate=True,
        num_experts=4,
        num_experts_per_token=2,
        num_shared_experts=2,
        moe_intermediate_size=16,
        moe_router_activation_func="sigmoid",
        moe_renormalize=True,
        routed_scaling_factor=2.0,
        first_k_dense_replace=1,
        moe_layer_freq=1,
        use_grouped_topk=True,
        num_expert_group=1,
        topk_group=1,
        routed_expert_hidden_size=16,
        latent_moe_use_norm=True,
        tie_word_embeddings=False,
    ),
)


_PRISM_LAYERS = {
    "model.layers.0.linear_attn.": ("in_proj_qkv", "in_proj_z", "out_proj"),
    "model.layers.1.self_attn.": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "model.layers.0.mlp.": ("gate_proj", "up_proj", "down_proj"),
    "model.layers.1.mlp.": ("gate_proj", "up_proj"),
}
_PRISM = named(
    "prism_hadamard_qwen35",
    schema_version=2,
    base_model_type="qwen3_5",
    tensor_namespace="mlx-vlm-qwen3_5",
    gdn_activation_layout="grouped",
    components={"text": True, "vision": False, "mtp": False},
    modules=[
        {"path": "model.embed_tokens", "block": 16, "embedding": True, "dtype": "float16"},
        {"path": "lm_head", "block": 32, "embedding": False, "dtype": "float16"},
        *(
            {"path": at + name, "block": 16, "embedding": False, "dtype": "float16"}
            for at, names in _PRISM_LAYERS.items()
            for name in names
        ),
    ],
    text_config=named(
        "qwen3_5_text",
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        linear_conv_kernel_dim=4,
        full_attention_interval=2,
        rms_norm_eps=1e-6,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        rope_parameters={"rope_theta": 10000.0, "partial_rotary_factor": 0.25, "rope_type": "default"},
    ),
)

CASES = {
    "rwkv7": Case(
        named(
            "rwkv7",
            hidden_size=32,
            head_dim=8,
            intermediate_size=64,
            num_hidden_layers=2,
            norm_eps=1e-5,
            decay_low_rank_dim=8,
            gate_low_rank_dim=16,
            a_low_rank_dim=8,
            v_low_rank_dim=8,
            hidden_act="sqrelu",
            tie_word_embeddings=False,
        ),
        recurrent.rwkv7,
        length=40,
    ),
    "plamo2": Case(
        tiny(
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
    "bailing_moe_linear": Case(
        tiny(
            "bailing_moe_linear",
            **{**LING_GROUPS, "n_group": 1, "topk_group": 1},
            num_hidden_layers=5,
            layer_group_size=2,
            group_norm_size=2,
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
    "kimi_k3": Case(_KIMI3, linear.kimi_k3, length=40),
    "prism_hadamard_qwen35": Case(_PRISM, linear.prism, length=40),
}
