"""GGUF tensor names -> Hugging Face tensor names, with what must be undone on the way.

Contract: pure tables and one lookup, no numpy and no MLX. `rule_for(architecture, name)` answers for every tensor of
the architectures in ARCHITECTURES; a name that has no rule is an error there, never dropped.

What GGUF converters change, and the transform that undoes it:
  rows_by_head     llama's q and k rows are interleaved within a head for ggml's rotary kernel
  minus_one        Gemma and Qwen3-Next store 1 + weight for norms
  conv             (channels, 1, width) convolutions lose their middle axis
  log_of_minus     A_log is stored as A = -exp(A_log)
  flat             per-head vectors carry an extra axis
  delta_qkv/gate   Qwen3-Next's in_proj_qkvz is split and its rows regrouped
Experts stay stacked: `...experts.<projection>.weight` is (experts, out, in).
Source: the GGUF naming scheme of the ggml project and the published Hugging Face checkpoints.
"""

import re
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from mlx_lm.errors import UnsupportedError, UnsupportedModelError

__all__ = ["ARCHITECTURES", "Rule", "Transform", "rule_for"]

Transform = Literal[
    "", "q_rows", "k_rows", "minus_one", "conv", "log_of_minus", "flat", "delta_qkv", "delta_gate", "drop"
]


@dataclass(frozen=True)
class Rule:
    """Where a tensor goes. `quantizable` tensors are matmul or embedding weights; all others become dense."""

    target: str
    transform: Transform = ""
    quantizable: bool = False


def _linear(target: str, transform: Transform = "") -> Rule:
    return Rule(target, transform, quantizable=True)


# `*` in a target stands for the suffix (weight or bias); block rules are relative to the layer's prefix.
_TOP = {
    "token_embd.weight": _linear("model.embed_tokens.weight"),
    "output_norm.weight": Rule("model.norm.weight"),
    "output.weight": _linear("lm_head.weight"),
    "output.bias": Rule("lm_head.bias"),
}
_ATTENTION = {
    "attn_norm": Rule("input_layernorm.*"),
    "attn_q": _linear("self_attn.q_proj.*"),
    "attn_k": _linear("self_attn.k_proj.*"),
    "attn_v": _linear("self_attn.v_proj.*"),
    "attn_output": _linear("self_attn.o_proj.*"),
}
_HEAD_NORMS = {"attn_q_norm": Rule("self_attn.q_norm.*"), "attn_k_norm": Rule("self_attn.k_norm.*")}
_MLP = {
    "ffn_norm": Rule("post_attention_layernorm.*"),
    "ffn_gate": _linear("mlp.gate_proj.*"),
    "ffn_up": _linear("mlp.up_proj.*"),
    "ffn_down": _linear("mlp.down_proj.*"),
}
_DENSE = _ATTENTION | _MLP


def _experts(prefix: str, router: str) -> dict[str, Rule]:
    return {
        "ffn_gate_inp": _linear(f"{prefix}.{router}.*"),
        "ffn_gate_exps": _linear(f"{prefix}.experts.gate_proj.*"),
        "ffn_up_exps": _linear(f"{prefix}.experts.up_proj.*"),
        "ffn_down_exps": _linear(f"{prefix}.experts.down_proj.*"),
    }


def _shared(name: str) -> dict[str, Rule]:
    return {f"ffn_{kind}_shexp": _linear(f"mlp.{name}.{kind}_proj.*") for kind in ("gate", "up", "down")}


def _shifted(rules: dict[str, Rule], *, keep: tuple[str, ...] = ()) -> dict[str, Rule]:
    """Every norm of `rules` is stored as 1 + weight, but for those in `keep`."""
    return {
        name: replace(rule, transform="minus_one") if "norm" in name and name not in keep else rule
        for name, rule in rules.items()
    }


_GEMMA2 = _DENSE | {
    "post_attention_norm": Rule("post_attention_layernorm.*"),
    "ffn_norm": Rule("pre_feedforward_layernorm.*"),
    "post_ffw_norm": Rule("post_feedforward_layernorm.*"),
}
_POST_NORMS = {
    "post_attention_norm": Rule("post_attention_layernorm.*"),
    "post_ffw_norm": Rule("post_feedforward_layernorm.*"),
}
_LATENT = {
    "attn_q_a": _linear("self_attn.q_a_proj.*"),
    "attn_q_a_norm": Rule("self_attn.q_a_layernorm.*"),
    "attn_q_b": _linear("self_attn.q_b_proj.*"),
    "attn_kv_a_mqa": _linear("self_attn.kv_a_proj_with_mqa.*"),
    "attn_kv_a_norm": Rule("self_attn.kv_a_layernorm.*"),
    "attn_kv_b": _linear("self_attn.kv_b_proj.*"),
    # Newer files store kv_b already split per head for the absorbed form, as mlx-lm's checkpoints do.
    "attn_k_b": _linear("self_attn.embed_q.*"),
    "attn_v_b": _linear("self_attn.unembed_out.*"),
    "exp_probs_b": Rule("mlp.gate.e_score_correction_bias"),
}
_MAMBA2 = {
    "attn_norm": Rule("norm.*"),
    "ssm_in": _linear("mixer.in_proj.*"),
    "ssm_conv1d.weight": Rule("mixer.conv1d.weight", "conv"),
    "ssm_conv1d.bias": Rule("mixer.conv1d.bias"),
    "ssm_dt.bias": Rule("mixer.dt_bias"),
    "ssm_a": Rule("mixer.A_log", "log_of_minus"),
    "ssm_d": Rule("mixer.D", "flat"),
    "ssm_norm": Rule("mixer.norm.*", "flat"),
    "ssm_out": _linear("mixer.out_proj.*"),
}
_LFM2 = {
    "attn_norm": Rule("operator_norm.*"),
    "attn_q": _linear("self_attn.q_proj.*"),
    "attn_k": _linear("self_attn.k_proj.*"),
    "attn_v": _linear("self_attn.v_proj.*"),
    "attn_output": _linear("self_attn.out_proj.*"),
    "attn_q_norm": Rule("self_attn.q_layernorm.*"),
    "attn_k_norm": Rule("self_attn.k_layernorm.*"),
    "ffn_norm": Rule("ffn_norm.*"),
    "ffn_gate": _linear("feed_forward.w1.*"),
    "ffn_up": _linear("feed_forward.w3.*"),
    "ffn_down": _linear("feed_forward.w2.*"),
    "shortconv.conv.weight": Rule("conv.conv.weight", "conv"),
    "shortconv.conv.bias": Rule("conv.conv.bias"),
    "shortconv.in_proj": _linear("conv.in_proj.*"),
    "shortconv.out_proj": _linear("conv.out_proj.*"),
}
_QWEN3_NEXT = (
    _ATTENTION
    | _HEAD_NORMS
    | _experts("mlp", "gate")
    | _shared("shared_expert")
    | {
        "ffn_gate_inp_shexp": _linear("mlp.shared_expert_gate.*"),
        "post_attention_norm": Rule("post_attention_layernorm.*"),
        "attn_qkv": _linear("linear_attn.in_proj_qkvz.*", "delta_qkv"),
        "attn_gate": _linear("linear_attn.in_proj_qkvz.*", "delta_gate"),
        "ssm_in": _linear("linear_attn.in_proj_qkvz.*"),
        "ssm_ba": _linear("linear_attn.in_proj_ba.*"),
        "ssm_conv1d.weight": Rule("linear_attn.conv1d.weight", "conv"),
        "ssm_dt.bias": Rule("linear_attn.dt_bias"),
        "ssm_a": Rule("linear_attn.A_log", "log_of_minus"),
        "ssm_norm": Rule("linear_attn.norm.*"),
        "ssm_out": _linear("linear_attn.out_proj.*"),
    }
)
_LLAMA = (
    _DENSE
    | _experts("block_sparse_moe", "gate")
    | {"attn_q": _linear("self_attn.q_proj.*", "q_rows"), "attn_k": _linear("self_attn.k_proj.*", "k_rows")}
)
_GPT_OSS = (
    _ATTENTION
    | _experts("mlp", "router")
    | {"attn_sinks": Rule("self_attn.sinks"), "post_attention_norm": Rule("post_attention_layernorm.*")}
)
_PHI3 = _DENSE | {"attn_qkv": _linear("self_attn.qkv_proj.*"), "ffn_up": _linear("mlp.gate_up_proj.*")}

_BLOCKS = MappingProxyType(
    {
        "llama": _LLAMA,
        "qwen2": _DENSE,
        "qwen3": _DENSE | _HEAD_NORMS,
        "qwen3moe": _DENSE | _HEAD_NORMS | _experts("mlp", "gate"),
        "gemma2": _shifted(_GEMMA2),
        "gemma3": _shifted(_GEMMA2 | _HEAD_NORMS),
        "phi3": _PHI3,
        "olmo2": _DENSE | _HEAD_NORMS | _POST_NORMS,
        "gpt-oss": _GPT_OSS,
        "deepseek2": _DENSE | _LATENT | _experts("mlp", "gate") | _shared("shared_experts"),
        "mamba2": _MAMBA2,
        "lfm2": _LFM2,
        "qwen3next": _shifted(_QWEN3_NEXT, keep=("ssm_norm",)),
    }
)
ARCHITECTURES: tuple[str, ...] = tuple(_BLOCKS)

# Tensors that hold rope tables: they become part of the config (see gguf_config) and leave the weights.
_ROPE_TABLES = frozenset({"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"})
_BLOCK_NAME = re.compile(r"^blk\.(\d{1,5})\.(.+)$")


def _top_rule(architecture: str, name: str) -> Rule | None:
    if name in _ROPE_TABLES:
        return Rule("", "drop")
    if architecture == "mamba2":
        renamed = {"token_embd.weight": "backbone.embeddings.weight", "output_norm.weight": "backbone.norm_f.weight"}
        return replace(_TOP[name], target=renamed.get(name, _TOP[name].target)) if name in _TOP else None
    if architecture == "lfm2" and name in ("token_embd_norm.weight", "output_norm.weight"):
        return Rule("model.embedding_norm.weight")
    rule = _TOP.get(name)
    if rule and name == "output_norm.weight" and architecture in ("gemma2", "gemma3", "qwen3next"):
        return replace(rule, transform="minus_one")
    return rule


def _block_rule(architecture: str, layer: str, rest: str) -> Rule | None:
    rules = _BLOCKS[architecture]
    stem, _, suffix = rest.rpartition(".")
    rule = rules.get(rest)
    if rule is None or "*" in rule.target:  # a rule with `*` stands for names with a suffix only
        rule = rules.get(stem) if suffix in ("weight", "bias") else None
    if rule is None:
        return None
    prefix = "backbone.layers" if architecture == "mamba2" else "model.layers"
    quantizable = rule.quantizable and suffix == "weight"
    return replace(rule, target=f"{prefix}.{layer}.{rule.target.replace('*', suffix)}", quantizable=quantizable)


def rule_for(architecture: str, name: str) -> Rule:
    """The rule for tensor `name` of a GGUF `architecture`.

    Raises UnsupportedModelError for an unknown architecture and UnsupportedError for a tensor that has no rule.
    """
    if architecture not in _BLOCKS:
        raise UnsupportedModelError(
            f"GGUF architecture {architecture!r} is not supported. Known: {', '.join(ARCHITECTURES)}."
        )
    match = _BLOCK_NAME.match(name)
    rule = _block_rule(architecture, str(int(match[1])), match[2]) if match else _top_rule(architecture, name)
    if rule is None:
        raise UnsupportedError(f"Tensor {name!r} has no place in a model of GGUF architecture {architecture!r}.")
    return rule
