"""Kimi Linear: delta layers that forget by channel, latent attention without positions, DeepSeek-V3's experts.

Source: https://arxiv.org/abs/2510.26692.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..nn import CausalConv, ChannelDelta, DeltaOptions, Rope
from . import deepseek_v3
from .parts import LinearArgs, Rename, Rule, Split, Transform, block_options, expert_rules


class ModelArgs(deepseek_v3.ModelArgs, LinearArgs):
    fixed = deepseek_v3.ModelArgs.fixed | {"mla_use_nope": (True,)}
    aliases = {
        "model_max_length": "max_position_embeddings", "moe_renormalize": "norm_topk_prob",
        "moe_router_activation_func": "scoring_func", "num_expert_group": "n_group",
        "num_experts": "n_routed_experts", "num_experts_per_token": "num_experts_per_tok",
        "num_shared_experts": "n_shared_experts",
    }  # fmt: skip
    nested = {"linear_attn_config": {
        "full_attn_layers": "full_attn_layers", "head_dim": "linear_head_dim", "num_heads": "linear_num_heads",
        "short_conv_kernel_size": "linear_conv_kernel_dim",
    }}  # fmt: skip
    rms_norm_eps: float = 1e-5
    q_lora_rank: int | None = None
    first_k_dense_replace: int = 1
    n_group: int | None = 1
    topk_group: int | None = 1
    linear_head_dim: int = 128
    linear_num_heads: int = 32
    linear_conv_kernel_dim: int = 4
    full_attn_layers: list[int] | None = None  # counted from 1

    def attends(self, index: int) -> bool:
        listed = self.full_attn_layers
        return index > 0 and index % 4 == 0 if listed is None else index + 1 in listed

    def linear_options(self) -> DeltaOptions:
        return block_options(DeltaOptions, self, gate_act="sigmoid")


class NamedConv(nn.Module):
    """A convolution, one name further down."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.conv = CausalConv(channels, kernel, bias=False)


class KimiDelta(ChannelDelta):
    narrow = "fg"

    def _build(self, o: DeltaOptions) -> None:
        super()._build(o)
        self.A_log = self.A_log.reshape(1, 1, -1, 1)

    def _build_conv(self, name: str, size: int) -> None:
        self[f"{name}_conv"] = NamedConv(size, self._options.kernel)

    def _kernels(self) -> list[mx.array]:
        return [self[f"{name}_conv"].conv.weight for name in "qkv"]


class Model(deepseek_v3.Model):
    linear_type = KimiDelta

    def weight_rules(self) -> tuple[Rule, ...]:
        parts = tuple(rf"\1.{name}_conv.conv.weight" for name in "qkv")
        return (
            Rename(r"\.block_sparse_moe\.", ".mlp."),
            *expert_rules("mlp", ("w1", "w3", "w2")),
            *super().weight_rules(),
            Rename(r"\.self_attn\.forget_gate\.", ".self_attn."),
            Split(r"(.*\.self_attn)\.conv1d\.weight", parts),
            Rename(r"(\.self_attn\.[qkv])_conv1d\.weight$", r"\1_conv.conv.weight"),
            Transform(r"\.A_log$", lambda a: a.reshape(1, 1, -1, 1)),
        )

    def rope(self, args: Any, index: int) -> Rope | None:
        return None
