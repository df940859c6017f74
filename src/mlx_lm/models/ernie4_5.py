"""ERNIE 4.5: Llama rotated by neighbours. Source: https://ernie.baidu.com/blog/publication/ERNIE_Technical_Report.pdf."""

from .parts import DecoderArgs, DenseModel


class ModelArgs(DecoderArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 131072
    rope_theta: float = 500000.0
    tie_word_embeddings: bool = True
    use_bias: bool = False


class Model(DenseModel):
    traditional_rope = True
