"""A backbone with learned embeddings of absolute positions, as GPT-2 has; knows no family."""

from collections.abc import Sequence
from typing import Any, ClassVar

import mlx.core as mx

from ..nn import Embedding
from ..state import LayerState, offsets
from .base import Backbone, CausalLM, layer_state

__all__ = ["LearnedPositions"]


class LearnedPositions(Backbone):
    """Adds row `position + first_row` of the table `position_name` to each token's embedding."""

    position_name: ClassVar[str] = "wpe"
    first_row: ClassVar[int] = 0

    def __init__(self, model: CausalLM, args: Any):
        super().__init__(model, args)
        self[self.position_name] = Embedding(args.max_position_embeddings + self.first_row, args.hidden_size)

    def __call__(
        self, inputs: mx.array, cache: Sequence[LayerState] | None = None, input_embeddings: mx.array | None = None
    ) -> mx.array:
        h = self[self._names.embed](inputs) if input_embeddings is None else input_embeddings
        start = offsets(layer_state(cache, 0))
        rows = mx.arange(h.shape[1]) + self.first_row
        rows = rows + (start if isinstance(start, int) else start[:, None])
        return super().__call__(inputs, cache, h + self[self.position_name](rows).astype(h.dtype))
