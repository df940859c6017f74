"""Qwen 3: norms on the heads of queries and keys. Source: https://arxiv.org/abs/2505.09388."""

from . import qwen2
from .dense import DenseModel


class ModelArgs(qwen2.ModelArgs):
    head_dim: int | None = 128
    attention_bias: bool = False


class Model(DenseModel):
    qk_norm = True
