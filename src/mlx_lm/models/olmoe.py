"""OLMoE: experts, norms on all heads together, clipped projections. Source: https://arxiv.org/abs/2409.02060."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.nn as nn

from ..nn import AttentionOptions, MoE, RMSNorm, Routing, SwitchGLU
from .config import DecoderArgs
from .dense import DenseModel
from .weights import expert_rules


@dataclass
class ModelArgs(DecoderArgs):
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096
    attention_bias: bool = False
    clip_qkv: float | None = None
    num_experts: int = 64
    num_experts_per_tok: int = 8
    norm_topk_prob: bool = False


class Model(DenseModel):
    rules = expert_rules()

    @classmethod
    def attention_options(cls, args: Any, index: int, **changes: Any) -> AttentionOptions:
        norm = partial(RMSNorm, eps=args.rms_norm_eps)
        return super().attention_options(args, index, qk_norm=norm, qk_norm_full=True, clip=args.clip_qkv, **changes)

    @classmethod
    def feed_forward(cls, args: Any, index: int) -> nn.Module:
        experts = SwitchGLU(args.hidden_size, args.intermediate_size, args.num_experts, act=args.hidden_act)
        routing = Routing(args.num_experts_per_tok, normalize=args.norm_topk_prob)
        return MoE(args.hidden_size, args.num_experts, routing, experts)
