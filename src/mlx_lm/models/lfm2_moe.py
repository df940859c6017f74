"""LFM2 with experts: sigmoid routing with a selection bias, dense first layers. https://arxiv.org/abs/2511.23404."""

from typing import Any

import mlx.nn as nn

from ..nn import GatedMLP, MoE, Routing
from . import lfm2
from .experts import gated_moe
from .weights import Rename, expert_rules


class ModelArgs(lfm2.ModelArgs):
    block_auto_adjust_ff_dim: bool = False
    num_experts: int = 32
    num_experts_per_tok: int = 4
    num_dense_layers: int = 2
    moe_intermediate_size: int = 1792
    norm_topk_prob: bool = True
    use_expert_bias: bool = True
    routed_scaling_factor: float = 1.0


class Experts(MoE):
    correction_on_router = False
    correction_name = "expert_bias"


class Model(lfm2.Model):
    rules = (
        *expert_rules("feed_forward", ("w1", "w3", "w2")),
        Rename(r"(\.feed_forward)\.w1\.", r"\1.gate_proj."),
        Rename(r"(\.feed_forward)\.w3\.", r"\1.up_proj."),
        Rename(r"(\.feed_forward)\.w2\.", r"\1.down_proj."),
    )

    def feed_forward(self, args: Any, index: int) -> nn.Module:
        if index < args.num_dense_layers:
            return GatedMLP(args.hidden_size, args.feed_forward_size, args.hidden_act)
        sizes = {"normalize": args.norm_topk_prob, "scale": args.routed_scaling_factor, "epsilon": 1e-6}
        routing = Routing(args.num_experts_per_tok, "sigmoid", **sizes)
        return gated_moe(args, routing, Experts, correction=args.use_expert_bias)
