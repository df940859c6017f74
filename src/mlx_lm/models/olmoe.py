"""OLMoE: experts, norms on all heads together, clipped projections. Source: https://arxiv.org/abs/2409.02060."""

from typing import Any, ClassVar

import mlx.nn as nn

from ..nn import Routing
from .config import DecoderArgs
from .dense import DenseModel
from .experts import gated_moe
from .weights import expert_rules


class ModelArgs(DecoderArgs):
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096
    attention_bias: bool = False
    clip_qkv: float | None = None
    num_experts: int = 64
    num_experts_per_tok: int = 8
    norm_topk_prob: bool = False


class Model(DenseModel):
    qk_norm = True
    attention: ClassVar = {"qk_norm_full": True}
    rules = expert_rules()

    def feed_forward(self, args: Any, index: int) -> nn.Module:
        return gated_moe(args, Routing(args.num_experts_per_tok, normalize=args.norm_topk_prob))
