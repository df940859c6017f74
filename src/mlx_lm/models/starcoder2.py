"""StarCoder 2: biased layer norms and projections, a window in every layer. Source: https://arxiv.org/abs/2402.19173."""

from dataclasses import dataclass, field
from typing import Any

import mlx.nn as nn

from ..nn import MLP, AttentionOptions, LayerNorm
from .dense import DenseModel, SlidingArgs


@dataclass
class ModelArgs(SlidingArgs):
    norm_epsilon: float = 1e-5
    use_bias: bool = True
    hidden_act: str = field(default="gelu_pytorch_tanh", kw_only=True)
    max_position_embeddings: int = 4096
    tie_word_embeddings: bool = field(default=True, kw_only=True)


class FeedForward(MLP):
    up_name, down_name = "c_fc", "c_proj"


class Model(DenseModel):
    @classmethod
    def attention_options(cls, args: Any, index: int, **changes: Any) -> AttentionOptions:
        return super().attention_options(args, index, bias=args.use_bias, out_bias=args.use_bias, **changes)

    @classmethod
    def feed_forward(cls, args: Any, index: int) -> nn.Module:
        return FeedForward(args.hidden_size, args.intermediate_size, args.hidden_act, bias=args.use_bias)

    @classmethod
    def norm(cls, args: Any) -> nn.Module:
        return LayerNorm(args.hidden_size, args.norm_epsilon)
