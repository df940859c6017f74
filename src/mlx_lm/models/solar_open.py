"""Solar Open: GLM-4.5's experts in every layer. Source: https://arxiv.org/abs/2601.07022."""

from .glm4_moe import Model
from .glm4_moe import ModelArgs as Glm4MoeArgs

__all__ = ["Model", "ModelArgs"]


class ModelArgs(Glm4MoeArgs):
    head_dim: int | None = 128
    partial_rotary_factor: float = 1.0
    rope_theta: float = 1000000.0
    moe_intermediate_size: int = 1280
    first_k_dense_replace: int = 0
