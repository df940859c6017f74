"""Ministral 3 and Devstral 2: YaRN, and queries that grow with their position. https://arxiv.org/abs/2601.08584."""

from typing import Any

import mlx.core as mx

from ..nn import Attention, AttentionOptions
from .dense import DenseModel, SlidingArgs


class ModelArgs(SlidingArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 262144


class GrowingQueries(Attention):
    """Queries are multiplied by 1 + beta * log(1 + floor((position + first) / trained length))."""

    beta = 0.0
    trained = 1
    first = 0

    def _place(self, queries: mx.array, keys: mx.array, position: int | mx.array) -> tuple[mx.array, mx.array]:
        queries, keys = super()._place(queries, keys, position)
        positions = mx.arange(self.first, self.first + queries.shape[2])[None, None, :, None]
        positions = positions + (position if isinstance(position, int) else position[:, None, None, None])
        growth = 1 + self.beta * mx.log(1 + mx.floor(positions / self.trained))
        return queries * growth.astype(queries.dtype), keys


class Model(DenseModel):
    def mixer(self, args: Any, index: int) -> Attention:
        options: AttentionOptions = self.attention_options(args, index)
        rope = args.rope_parameters()
        beta = rope.number("llama_4_scaling_beta", 0.0)
        if beta == 0:
            return Attention(options)
        mixer = GrowingQueries(options)
        mixer.beta = beta
        mixer.trained = int(rope.number("original_max_position_embeddings", args.max_position_embeddings))
        return mixer
