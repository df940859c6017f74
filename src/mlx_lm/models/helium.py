"""Helium: Llama rotated by neighbours. Source: https://kyutai.org/helium."""

from .parts import DenseModel, LlamaArgs


class ModelArgs(LlamaArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = 1e-8
    max_position_embeddings: int = 4096
    rope_theta: float = 100000.0


class Model(DenseModel):
    traditional_rope = True
    attention = {"out_bias": False}
