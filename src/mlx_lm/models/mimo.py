"""MiMo: Qwen 2 with heads that guess further tokens. Source: https://arxiv.org/abs/2505.07608."""

from dataclasses import dataclass, field
from typing import Any

from ..nn import AttentionOptions
from . import qwen2
from .weights import Drop


@dataclass
class ModelArgs(qwen2.ModelArgs):
    attention_bias: bool = True
    rope_theta: float = field(default=640000.0, kw_only=True)


class Model(qwen2.Model):
    rules = (Drop(r"(^|\.)mtp_layers\."),)

    @classmethod
    def attention_options(cls, args: Any, index: int, **changes: Any) -> AttentionOptions:
        return super().attention_options(args, index, out_bias=False, **changes)
