"""Solar Open: GLM-4.5's experts in every layer. Source: https://arxiv.org/abs/2601.07022."""

from . import glm4_moe

Model = glm4_moe.Model


class ModelArgs(glm4_moe.ModelArgs):
    head_dim: int | None = 128
    partial_rotary_factor: float = 1.0
    rope_theta: float = 1000000.0
    moe_intermediate_size: int = 1280
    first_k_dense_replace: int = 0
