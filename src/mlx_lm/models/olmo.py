"""OLMo: norms without parameters, clipped projections. Source: https://arxiv.org/abs/2402.00838."""

from dataclasses import dataclass
from typing import Any

import mlx.nn as nn

from ..nn import AttentionOptions, LayerNorm
from .config import DecoderArgs
from .dense import DenseModel


@dataclass
class ModelArgs(DecoderArgs):
    attention_bias: bool = False
    clip_qkv: float | None = None


class Model(DenseModel):
    @classmethod
    def attention_options(cls, args: Any, index: int, **changes: Any) -> AttentionOptions:
        return super().attention_options(args, index, clip=args.clip_qkv, **changes)

    @classmethod
    def norm(cls, args: Any) -> nn.Module:
        return LayerNorm(args.hidden_size, 1e-5, affine=False)
