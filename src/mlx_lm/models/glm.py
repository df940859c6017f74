"""GLM-4 9B: half of each head rotated by neighbours, fused feed-forward. Source: https://arxiv.org/abs/2406.12793."""

from .parts import DecoderArgs, DenseModel


class ModelArgs(DecoderArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = 1.5625e-7
    attention_bias: bool = True
    partial_rotary_factor: float = 0.5
    max_position_embeddings: int = 131072


class Model(DenseModel):
    traditional_rope = True
    feed_forward_options = {"fused": True}
    attention = {"out_bias": False}
