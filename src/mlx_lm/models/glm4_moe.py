"""GLM-4.5 to 4.7: sigmoid routing in groups with a selection bias, shared experts. https://arxiv.org/abs/2508.06471."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.nn as nn

from ..nn import AttentionOptions, GatedMLP, MoE, RMSNorm, Routing, SwitchGLU
from .config import DecoderArgs
from .dense import DenseModel
from .weights import DropLayers, Rule, expert_rules


@dataclass
class ModelArgs(DecoderArgs):
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 131072
    partial_rotary_factor: float = 0.5
    attention_bias: bool = False
    use_qk_norm: bool = False
    n_routed_experts: int = 128
    n_shared_experts: int = 1
    num_experts_per_tok: int = 8
    moe_intermediate_size: int = 1408
    first_k_dense_replace: int = 1
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0


class Model(DenseModel):
    rules = expert_rules()
    moe_type = MoE

    def weight_rules(self) -> tuple[Rule, ...]:
        return (*super().weight_rules(), DropLayers(self.args.num_hidden_layers))

    @classmethod
    def attention_options(cls, args: Any, index: int, **changes: Any) -> AttentionOptions:
        norm = partial(RMSNorm, eps=args.rms_norm_eps) if args.use_qk_norm else None
        return super().attention_options(args, index, **({"qk_norm": norm, "out_bias": False} | changes))

    @classmethod
    def feed_forward(cls, args: Any, index: int) -> nn.Module:
        if index < args.first_k_dense_replace:
            return super().feed_forward(args, index)
        width, size, count = args.hidden_size, args.moe_intermediate_size, args.n_routed_experts
        groups = {"num_groups": args.n_group, "top_groups": args.topk_group, "group_score": "top2"}
        normalize = {"normalize": args.norm_topk_prob, "scale": args.routed_scaling_factor, "epsilon": 1e-20}
        routing = Routing(args.num_experts_per_tok, "sigmoid", **groups, **normalize)
        shared = GatedMLP(width, size * args.n_shared_experts, args.hidden_act) if args.n_shared_experts else None
        return cls.moe_type(
            width, count, routing, SwitchGLU(width, size, count, act=args.hidden_act), correction=True, shared=shared
        )
