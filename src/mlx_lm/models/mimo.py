"""MiMo: Qwen 2 with heads that guess further tokens. Source: https://arxiv.org/abs/2505.07608."""

from . import qwen2
from .weights import Drop


class ModelArgs(qwen2.ModelArgs):
    attention_bias: bool = True
    rope_theta: float = 640000.0


class Model(qwen2.Model):
    attention = {"bias": True, "out_bias": False}
    rules = (Drop(r"(^|\.)mtp_layers\."),)
