"""Code World Model: Llama whose every fourth layer sees everything. Source: https://arxiv.org/abs/2510.02387."""

from .dense import DenseModel, SlidingArgs


class ModelArgs(SlidingArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 131072
    rope_theta: float = 1000000.0
    sliding_window: int | None = 8192
    mlp_bias: bool = False

    def slides(self, index: int) -> bool:
        return index % 4 != 0


Model = DenseModel
