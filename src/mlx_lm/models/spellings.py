"""What configs call things: keys that change the computation, other names of fields, names of blocks' options.

Data and one reader of both spellings; which family has which field is said in the family's file.
"""

from collections.abc import Mapping
from typing import Any

__all__ = [
    "ABOVE_ZERO", "COUNTS", "LARGEST", "NEUTRAL", "OPTIONS", "OTHER_NAMES", "POSITIVE",
    "flatten_config", "rope_from_v5",
]  # fmt: skip

# Keys that change the computation, with the values that mean "not used". A family that reads such a key has a field
# of that name; any other family refuses a value that is not here.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "alibi": (False, None),
    "attention_bias": (False, None),
    "attention_multiplier": (None,),
    "attention_out_bias": (False, None),
    "attn_logit_softcapping": (None, 0, 0.0),
    "attn_logit_softcap": (None, 0, 0.0),
    "clip_qkv": (None,),
    "embedding_multiplier": (1, 1.0, None),
    "final_logit_softcapping": (None, 0, 0.0),
    "first_k_dense_replace": (0, None),
    "kv_lora_rank": (None, 0),
    "layer_types": (None,),
    "logit_scale": (1, 1.0, None),
    "logits_scaling": (1, 1.0, None),
    "mlp_bias": (False, None),
    "moe_intermediate_size": (None, 0),
    "n_group": (1, None),
    "n_routed_experts": (None, 0),
    "n_shared_experts": (None, 0),
    "no_rope_layers": (None, []),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "parallel_attn": (False, None),
    "partial_rotary_factor": (1, 1.0, None),
    "q_lora_rank": (None, 0),
    "qk_layernorm": (False, None),
    "query_pre_attn_scalar": (None,),
    "residual_multiplier": (1, 1.0, None),
    "rope_interleave": (None,),
    "rope_local_base_freq": (None,),
    "rope_scaling": (None, {}),
    "routed_scaling_factor": (1, 1.0, None),
    "scale_attn_by_inverse_layer_idx": (False, None),
    "scale_depth": (None,),
    "scale_emb": (1, 1.0, None),
    "sliding_window": (None,),
    "use_bias": (False, None),
    "use_qk_norm": (False, None),
    "use_qkv_bias": (False, None),
    "use_sliding_window": (False, None),
}


# Sizes and counts: a config that gives one of these gives at least 1.
POSITIVE = frozenset((
    "decoder_sparse_step", "full_attention_interval", "head_dim", "hidden_size", "intermediate_size",
    "max_position_embeddings", "moe_intermediate_size", "num_attention_heads", "num_experts_per_tok",
    "num_hidden_layers", "num_key_value_heads", "shared_expert_intermediate_size", "vocab_size",
    "attn_layer_period", "block_multiple_of", "conv1d_width", "conv_L_cache", "conv_kernel", "expand",
    "expert_layer_period", "kv_lora_rank", "linear_conv_kernel_dim", "linear_head_dim", "linear_key_head_dim",
    "linear_num_heads", "linear_num_key_heads", "linear_num_value_heads", "linear_value_head_dim", "lru_width",
    "mamba_d_conv", "mamba_d_ssm", "mamba_d_state", "mamba_dt_rank", "mamba_expand", "mamba_head_dim",
    "mamba_n_groups", "mamba_n_heads", "mamba_num_heads", "moe_latent_size", "moe_layer_freq",
    "moe_shared_expert_intermediate_size", "n_group", "n_groups",
    "num_heads", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "ssm_state_size",
    "state_size", "time_step_rank", "topk_group", "v_head_dim", "altup_num_inputs", "attention_chunk_size",
    "dense_intermediate_size", "floor_scale", "global_head_dim", "intermediate_size_mlp", "laurel_rank",
    "moe_num_experts", "moe_topk", "num_global_key_value_heads", "prefix_dense_intermediate_size",
    "swa_num_key_value_heads", "top_k_experts", "vocab_size_per_layer_input", "word_embed_proj_dim",
    "adapter_rank", "attention_window_size", "attn_res_block_size", "blocksparse_block_size",
    "blocksparse_num_local_blocks", "blocksparse_vert_stride", "cca_time0", "cca_time1", "ffn_dim_divisor",
    "ffn_round_up_to_multiple_of", "group_norm_size", "hc_mult", "hc_sinkhorn_iters", "index_block_size",
    "index_head_dim", "index_n_heads", "index_topk", "index_topk_blocks", "keep_window_size", "layer_group_size",
    "loop_num", "loop_window_size", "mamba_ngroups", "mamba_step", "n_mamba_heads", "n_shared_head", "num_loops",
    "num_mem_blocks", "o_groups", "o_lora_rank", "router_hidden_size", "window_size",
    "a_low_rank_dim", "decay_low_rank_dim", "gate_low_rank_dim", "v_low_rank_dim",
))  # fmt: skip

# Where 0 means that there are none.
COUNTS = frozenset((
    "hidden_size_per_layer_input", "moe_num_shared_experts", "n_routed_experts", "n_shared_experts", "num_experts",
    "num_kv_shared_layers", "num_local_experts", "num_shared_experts", "shared_intermediate_size",
))  # fmt: skip

ABOVE_ZERO = ("dim_model_base", "query_pre_attn_scalar")  # numbers that need not be whole

LARGEST = {"num_hidden_layers": 4096, "num_attention_heads": 65536, "num_key_value_heads": 65536}


# Other names that several families' configs have for a field, where the family has the field and not the name.
OTHER_NAMES: dict[str, str] = {
    "activation_function": "hidden_act", "d_model": "hidden_size", "ffn_dim": "intermediate_size",
    "hidden_activation": "hidden_act", "layer_norm_epsilon": "layer_norm_eps",
    "max_seq_len": "max_position_embeddings", "model_dim": "hidden_size",
    "n_embd": "hidden_size", "n_head": "num_attention_heads", "n_head_kv": "num_key_value_heads",
    "n_heads": "num_attention_heads", "n_inner": "intermediate_size", "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers", "n_positions": "max_position_embeddings", "num_kv_heads": "num_key_value_heads",
    "num_local_experts": "num_experts", "rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor",
    "num_layers": "num_hidden_layers", "seq_length": "max_position_embeddings",
}  # fmt: skip


# What configs call the options of blocks.
OPTIONS: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size",),
    "num_heads": ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads", "num_attention_heads"),
    "head_dim": ("mamba_head_dim", "head_dim"),
    "groups": ("mamba_n_groups", "mamba_ngroups", "n_groups", "o_groups"),
    "state_size": ("mamba_d_state", "ssm_state_size", "state_size"),
    "rank": ("mamba_dt_rank", "time_step_rank"),
    "kernel": ("mamba_d_conv", "conv_kernel", "linear_conv_kernel_dim"),
    "bias": ("mamba_proj_bias", "use_bias", "add_bias_linear"),
    "conv_bias": ("mamba_conv_bias", "use_conv_bias"),
    "norm_groups": ("mamba_n_groups", "mamba_ngroups", "n_groups"),
    "norm_eps": ("rms_norm_eps", "layer_norm_epsilon"),
    "act": ("mamba_hidden_act", "hidden_mamba_act", "hidden_act"),
    "key_heads": ("linear_num_key_heads", "linear_num_heads"),
    "value_heads": ("linear_num_value_heads", "linear_num_heads"),
    "key_dim": ("linear_key_head_dim", "linear_head_dim"),
    "value_dim": ("linear_value_head_dim", "linear_head_dim"),
    "q_rank": ("q_lora_rank",),
    "kv_rank": ("kv_lora_rank",),
    "out_rank": ("o_lora_rank",),
    "nope_dim": ("qk_nope_head_dim",),
    "rope_dim": ("qk_rope_head_dim",),
    "lower_bound": ("kda_lower_bound", "gate_lower_bound"),
    "index_heads": ("index_n_heads",),
    "index_dim": ("index_head_dim",),
    "index_topk": ("index_topk",),
}


def flatten_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with nested text configs lifted and transformers-5 spellings turned into the published ones.

    `rope_parameters` with one entry per layer type stays, as `rope_by_layer_type`, without those that are null.
    """
    flat = dict(config)
    for nested in ("text_config", "llm_config", "language_config"):
        inner = flat.pop(nested, None)
        if isinstance(inner, Mapping):
            outer_type = flat.get("model_type")
            flat |= {k: v for k, v in inner.items() if v is not None or k not in flat}
            if outer_type is not None:
                flat["model_type"] = outer_type
    if flat.get("torch_dtype") is None and isinstance(flat.get("dtype"), str):
        flat["torch_dtype"] = flat["dtype"]
    rope = flat.pop("rope_parameters", None)
    if isinstance(rope, Mapping):
        without = bool(rope) and all(v is None for v in rope.values())  # no kind of layer has a rope
        if without or any(isinstance(v, Mapping) for v in rope.values()):
            flat["rope_by_layer_type"] = {k: dict(v) for k, v in rope.items() if isinstance(v, Mapping)}
        else:
            flat |= rope_from_v5(rope)
    return flat


def rope_from_v5(rope: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_parameters` of one kind of layer under the published names."""
    rest = dict(rope)
    flat = {}
    for name in ("rope_theta", "partial_rotary_factor"):
        value = rest.pop(name, None)
        if value is not None:
            flat[name] = value
    kind = rest.get("rope_type", rest.get("type", "default"))
    flat["rope_scaling"] = None if kind == "default" else rest
    return flat
