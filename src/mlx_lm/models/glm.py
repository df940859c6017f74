"""GLM-4 9B: half of each head rotated by neighbours, fused feed-forward. Source: https://arxiv.org/abs/2406.12793."""

from dataclasses import dataclass
from typing import Any

import mlx.nn as nn

from ..nn import AttentionOptions, GatedMLP
from .config import DecoderArgs
from .dense import DenseModel


@dataclass
class ModelArgs(DecoderArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = 1.5625e-7
    attention_bias: bool = True
    partial_rotary_factor: float = 0.5
    max_position_embeddings: int = 131072


class Model(DenseModel):
    traditional_rope = True

    @classmethod
    def attention_options(cls, args: Any, index: int, **changes: Any) -> AttentionOptions:
        return super().attention_options(args, index, out_bias=False, **changes)

    @classmethod
    def feed_forward(cls, args: Any, index: int) -> nn.Module:
        return GatedMLP(args.hidden_size, args.intermediate_size, args.hidden_act, fused=True)
