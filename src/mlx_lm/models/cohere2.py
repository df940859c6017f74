"""Command R7B and A: Command R with windows; full layers have no rope. Source: https://arxiv.org/abs/2504.00698."""

from .cohere import Model as Cohere
from .dense import SlidingArgs


class ModelArgs(SlidingArgs):
    layer_norm_eps: float = 1e-5
    logit_scale: float = 0.0625
    attention_bias: bool = False
    sliding_window: int | None = 4096
    sliding_window_pattern: int | None = 4
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True


class Model(Cohere):
    rope_where_sliding = True
