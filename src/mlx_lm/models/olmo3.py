"""OLMo 3: OLMo 2 with a window on three layers of four, whose rope is never scaled. https://arxiv.org/abs/2512.13961."""

from .dense import TwoRopeArgs
from .olmo2 import Model

__all__ = ["Model", "ModelArgs"]


class ModelArgs(TwoRopeArgs):
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    sliding_window: int | None = 4096
    sliding_window_pattern: int | None = 4
    rope_theta: float = 500000.0
