"""A next-token head for speculation: drafts the hidden state of the token after next.

Source: multi-token prediction, https://arxiv.org/abs/2412.19437, section 2.2. The block does not know who drafts.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn

from ..state import PLAIN_KV, KVOptions, LayerState, State, StateSpec
from .linear import Linear

__all__ = ["NextTokenHead"]


class NextTokenHead(nn.Module):
    """Joins a final hidden state with the embedding of the token that followed it, and runs its own layers."""

    def __init__(self, hidden_size: int, layers: Sequence[nn.Module], norm: Callable[[], nn.Module]):
        super().__init__()
        self.pre_fc_norm_embedding = norm()
        self.pre_fc_norm_hidden = norm()
        self.fc = Linear(2 * hidden_size, hidden_size, bias=False)
        self.layers = list(layers)
        self.norm = norm()

    def state_specs(self) -> list[StateSpec]:
        """What each of the head's layers keeps for a sequence."""
        return [layer.state_spec() for layer in self.layers]  # type: ignore[operator]

    def make_cache(self, options: KVOptions = PLAIN_KV) -> list[State]:
        """Fresh states for one sequence."""
        return [spec.create(options) for spec in self.state_specs()]

    def __call__(self, hidden: mx.array, embeddings: mx.array, cache: Sequence[LayerState] | None = None) -> mx.array:
        """hidden (B, L, D), normalized, and the next tokens' embeddings (B, L, D) -> hidden (B, L, D) for the head."""
        x = mx.concatenate([self.pre_fc_norm_embedding(embeddings), self.pre_fc_norm_hidden(hidden)], axis=-1)
        x = self.fc(x)
        for i, layer in enumerate(self.layers):
            x = layer(x, None if cache is None else cache[i])
        return self.norm(x)
