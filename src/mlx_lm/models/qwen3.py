"""Qwen 3: norms on the heads of queries and keys. Source: https://arxiv.org/abs/2505.09388."""

from .dense import DenseModel
from .qwen2 import QwenArgs


class ModelArgs(QwenArgs):
    head_dim: int | None = 128
    attention_bias: bool = False


class Model(DenseModel):
    qk_norm = True
