"""Code World Model: Llama whose every fourth layer sees everything. Source: https://arxiv.org/abs/2510.02387."""

from .dense import DenseModel, SlidingArgs


class ModelArgs(SlidingArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 131072
    rope_theta: float = 1000000.0
    sliding_window: int | None = 8192
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        if self.layer_types is None:
            kinds = ("sliding_attention", "full_attention")
            self.layer_types = [kinds[i % 4 == 0] for i in range(self.num_hidden_layers)]
        super().__post_init__()


class Model(DenseModel):
    pass
