"""PLaMo 3: windows with a rope of their own, norms around each branch. https://huggingface.co/pfnet/plamo-3-nict-8b-base."""

from ..nn import Attention
from . import plamo2
from .parts import TwoRopeArgs


class ModelArgs(TwoRopeArgs):
    fixed = {"linear_type": ("normal",)}
    aliases = {"window_size": "sliding_window", "rope_local_theta": "rope_local_base_freq"}
    num_key_value_heads: int | None = 4
    head_dim: int | None = 128
    rope_theta: float = 1000000.0
    rope_local_base_freq: float | None = 10000.0
    tie_word_embeddings: bool = True
    sliding_window: int | None = 2048
    sliding_window_pattern: int | None = 8

    def window(self, index: int) -> int | None:
        """A query sees itself and `window_size` tokens before it."""
        window = super().window(index)
        return None if window is None else window + 1


class Model(plamo2.Model):
    attention_type = Attention
    qk_norm = True
