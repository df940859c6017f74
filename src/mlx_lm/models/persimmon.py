"""Persimmon: biased norms on queries and keys, squared ReLU, partial rope. https://www.adept.ai/blog/persimmon-8b."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..nn import AttentionOptions, HeadwiseAttention, LayerNorm
from .base import ModelNames
from .config import DecoderArgs
from .dense import DenseModel
from .gpt_neox import FeedForward


@dataclass
class ModelArgs(DecoderArgs):
    layer_norm_eps: float = 1e-5
    hidden_act: str = field(default="relu2", kw_only=True)
    max_position_embeddings: int = 16384
    partial_rotary_factor: float = 0.5
    qk_layernorm: bool = True


class NormedHeads(HeadwiseAttention):
    qkv_name, out_name = "query_key_value", "dense"
    q_norm_name, k_norm_name = "q_layernorm", "k_layernorm"

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array | None]:
        queries, keys, values, _ = super()._project(x)
        if self._options.qk_norm is not None:
            queries, keys = self.q_layernorm(queries), self.k_layernorm(keys)
        return queries, keys, values, None


class Model(DenseModel):
    names = ModelNames(norm="final_layernorm")
    attention_type = NormedHeads

    @classmethod
    def attention_options(cls, args: Any, index: int, **changes: Any) -> AttentionOptions:
        norm = partial(LayerNorm, eps=args.layer_norm_eps) if args.qk_layernorm else None
        return super().attention_options(args, index, fused=True, bias=True, out_bias=True, qk_norm=norm, **changes)

    @classmethod
    def feed_forward(cls, args: Any, index: int) -> nn.Module:
        return FeedForward(args.hidden_size, args.intermediate_size, args.hidden_act, bias=True)
