"""BitNet b1.58: norms before the output and the down projections. Source: https://arxiv.org/abs/2504.12285.

Ternary checkpoints are read as dense weights.
"""

from typing import Any

import mlx.core as mx
from mlx import nn

from ..kernels import KVView
from ..nn import Attention, GatedMLP, RMSNorm
from ..nn.mlp import gated
from .parts import BiasArgs, DenseModel


class ModelArgs(BiasArgs):
    rms_norm_eps: float = 1e-5
    hidden_act: str = "relu2"
    rope_theta: float = 500000.0
    tie_word_embeddings: bool = True


class NormedOutput(Attention):
    def add(self, args: Any, index: int) -> None:
        self.attn_sub_norm = RMSNorm(args.heads[0] * args.heads[2], args.rms_norm_eps)

    def _attend(self, queries: mx.array, views: tuple[KVView, ...], position: int | mx.array) -> mx.array:
        out = super()._attend(queries, views, position).transpose(0, 2, 1, 3)
        return self.attn_sub_norm(out.flatten(2)).reshape(out.shape).transpose(0, 2, 1, 3)


class NormedHidden(GatedMLP):
    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(self.ffn_sub_norm(gated(self.gate_proj(x), self.up_proj(x), self.act)))


class Model(DenseModel):
    attention_type = NormedOutput

    def feed_forward(self, args: Any, index: int) -> nn.Module:
        mlp = NormedHidden(args.hidden_size, args.intermediate_size, args.hidden_act)
        mlp.ffn_sub_norm = RMSNorm(args.intermediate_size, args.rms_norm_eps)
        return mlp
