"""Helium: Llama rotated by neighbours. Source: https://kyutai.org/helium."""

from dataclasses import dataclass, field
from typing import ClassVar

from .config import DecoderArgs
from .dense import DenseModel


@dataclass
class ModelArgs(DecoderArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = 1e-8
    max_position_embeddings: int = 4096
    rope_theta: float = field(default=100000.0, kw_only=True)
    attention_bias: bool = False
    mlp_bias: bool = False


class Model(DenseModel):
    traditional_rope = True
    attention: ClassVar = {"out_bias": False}
