"""Jamba: Mamba layers and, in a fixed rhythm, attention without positions and experts. https://arxiv.org/abs/2403.19887."""

from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..nn import LayerNames, Mamba, MambaOptions, RMSNorm
from .aria_text import Experts
from .mamba import step_rank
from .parts import DenseModel, LinearArgs, ModelNames, Rename, block_options, expert_rules


class ModelArgs(LinearArgs):
    aliases = {"layers_block_type": "layer_types"}
    max_position_embeddings: int = 262144
    num_experts: int = 16
    num_experts_per_tok: int = 2
    expert_layer_period: int = 2
    expert_layer_offset: int = 1
    attn_layer_period: int = 8
    attn_layer_offset: int = 4
    mamba_d_state: int = 16
    mamba_d_conv: int = 4
    mamba_expand: float = 2
    mamba_dt_rank: int | str = "auto"
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mamba_dt_rank = step_rank(self, "mamba_dt_rank")

    def attends(self, index: int) -> bool:
        return index % self.attn_layer_period == self.attn_layer_offset

    def has_experts(self, index: int) -> bool:
        return self.num_experts > 1 and index % self.expert_layer_period == self.expert_layer_offset


class NormedMamba(Mamba):
    def __init__(self, options: MambaOptions, eps: float):
        super().__init__(options)
        self.dt_layernorm = RMSNorm(options.rank, eps)
        self.b_layernorm = RMSNorm(options.state_size, eps)
        self.c_layernorm = RMSNorm(options.state_size, eps)

    def normed(self, dt: mx.array, b: mx.array, c: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        return self.dt_layernorm(dt), self.b_layernorm(b), self.c_layernorm(c)


class Model(DenseModel):
    names = ModelNames(norm="final_layernorm")
    layer_names = LayerNames("self_attn", "feed_forward", pre_feed_forward="pre_ff_layernorm")
    linear_names = replace(layer_names, mixer="mamba")
    attention = {"rope": None}
    moe_type = Experts
    routing_options = {"normalize": False}
    rules = (
        Rename(r"\.pre_moe_layernorm\.", ".pre_ff_layernorm."),
        Rename(r"\.moe\.", ".feed_forward."),
        *expert_rules("feed_forward"),
    )

    def linear_mixer(self, args: Any, index: int) -> nn.Module:
        options = block_options(MambaOptions, args, inner_size=int(args.mamba_expand * args.hidden_size))
        return NormedMamba(options, args.rms_norm_eps)
