"""A backbone that adds embeddings of absolute positions, learned as GPT-2 has them or other; knows no family."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import mlx.core as mx

from ..nn import Embedding
from ..state import offsets
from .base import Backbone, Cache, CausalLM, layer_state

__all__ = ["AddedPositions", "LearnedPositions"]


class AddedPositions(Backbone, ABC):
    """Adds what `at` gives for `position + first_row` to each token's embedding."""

    first_row: ClassVar[int] = 0

    @abstractmethod
    def at(self, rows: mx.array) -> mx.array:
        """(..., D) for rows (...)."""

    def through(self, h: mx.array, cache: Cache, inputs: mx.array) -> mx.array:
        start = offsets(layer_state(cache, 0))
        rows = mx.arange(h.shape[1]) + self.first_row
        rows = rows + (start if isinstance(start, int) else start[:, None])
        return super().through(self.narrow(h) + self.at(rows).astype(h.dtype), cache, inputs)

    def narrow(self, h: mx.array) -> mx.array:
        """Embeddings (B, L, E) in the width of the layers (B, L, D)."""
        return h


class LearnedPositions(AddedPositions):
    """Positions are the rows of a table, `position_name`."""

    position_name: ClassVar[str] = "wpe"

    def __init__(self, model: CausalLM, args: Any):
        super().__init__(model, args)
        self[self.position_name] = Embedding(args.max_position_embeddings + self.first_row, args.hidden_size)

    def at(self, rows: mx.array) -> mx.array:
        return self[self.position_name](rows)
