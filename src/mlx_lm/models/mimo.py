"""MiMo: Qwen 2 with heads that guess further tokens. Source: https://arxiv.org/abs/2505.07608."""

from dataclasses import dataclass, field
from typing import ClassVar

from . import qwen2
from .weights import Drop


@dataclass
class ModelArgs(qwen2.ModelArgs):
    attention_bias: bool = True
    rope_theta: float = field(default=640000.0, kw_only=True)


class Model(qwen2.Model):
    attention: ClassVar = {"bias": True, "out_bias": False}
    rules = (Drop(r"(^|\.)mtp_layers\."),)
