"""Qwen 3: norms on the heads of queries and keys. Source: https://arxiv.org/abs/2505.09388."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from ..nn import AttentionOptions, RMSNorm
from .dense import DenseModel
from .qwen2 import QwenArgs


@dataclass
class ModelArgs(QwenArgs):
    head_dim: int | None = 128
    attention_bias: bool = False


class Model(DenseModel):
    @classmethod
    def attention_options(cls, args: Any, index: int, **changes: Any) -> AttentionOptions:
        norm = partial(RMSNorm, eps=args.rms_norm_eps)
        return super().attention_options(args, index, qk_norm=norm, **changes)
