"""Arcee AFM: a feed-forward without gate, squared ReLU. Source: https://huggingface.co/arcee-ai/AFM-4.5B."""

from dataclasses import dataclass, field
from typing import Any

import mlx.nn as nn

from ..nn import MLP
from .config import DecoderArgs
from .dense import DenseModel


@dataclass
class ModelArgs(DecoderArgs):
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096
    hidden_act: str = field(default="relu2", kw_only=True)
    attention_bias: bool = False
    mlp_bias: bool = False


class Model(DenseModel):
    @classmethod
    def feed_forward(cls, args: Any, index: int) -> nn.Module:
        return MLP(args.hidden_size, args.intermediate_size, args.hidden_act, bias=args.mlp_bias)
