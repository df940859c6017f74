"""Ministral 3 and Devstral 2: YaRN, and queries that grow with their position. https://arxiv.org/abs/2601.08584."""

from typing import Any

import mlx.core as mx

from ..nn import Attention
from .parts import DenseModel, SlidingArgs, refuse


class ModelArgs(SlidingArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 262144


class Growth:
    """A factor on queries: 1 + beta * log(1 + floor((position + first) / trained length))."""

    beta = 0.0
    trained = 1
    first = 0

    def read_growth(self, args: Any) -> None:
        """Takes the numbers from where Mistral's configs have them."""
        rope = args.rope_parameters()
        self.beta = rope.number("llama_4_scaling_beta", 0.0)
        self.trained = int(rope.number("original_max_position_embeddings", args.max_position_embeddings))
        refuse(self.trained < 1, f"original_max_position_embeddings must be at least 1, not {self.trained}")

    def growth(self, queries: mx.array, position: int | mx.array) -> mx.array:
        """For queries (B, H, L, D), of which the first stands at `position`."""
        positions = mx.arange(self.first, self.first + queries.shape[2])[None, None, :, None]
        positions = positions + (position if isinstance(position, int) else position[:, None, None, None])
        return (1 + self.beta * mx.log(1 + mx.floor(positions / self.trained))).astype(queries.dtype)


class GrowingQueries(Growth, Attention):
    def _place(self, queries: mx.array, keys: mx.array, position: int | mx.array) -> tuple[mx.array, mx.array]:
        queries, keys = super()._place(queries, keys, position)
        return queries * self.growth(queries, position), keys


class Model(DenseModel):
    def mixer(self, args: Any, index: int) -> Attention:
        options = self.attention_options(args, index)
        mixer = GrowingQueries(options)
        mixer.read_growth(args)
        return mixer if mixer.beta else Attention(options)
