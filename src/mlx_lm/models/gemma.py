"""Gemma: norms that store weight - 1, embeddings scaled by sqrt(hidden_size). Source: https://arxiv.org/abs/2403.08295.

The later Gemma families derive from this one.
"""

from .parts import BiasArgs, DenseModel


class ModelArgs(BiasArgs):
    head_dim: int | None = 256
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        if self.hidden_act == "gelu":  # the first releases wrote this and meant the tanh form
            self.hidden_act = "gelu_pytorch_tanh"
        super().__post_init__()


class Model(DenseModel):
    norm_options = {"offset": 1.0}
    scaled_embedding = True
