"""Granite: multipliers on embeddings, scores, residuals and logits. Source: https://arxiv.org/abs/2405.04324."""

from typing import Any

from .config import DecoderArgs, refuse
from .dense import DenseModel


class ModelArgs(DecoderArgs):
    attention_bias: bool = False
    mlp_bias: bool = False
    embedding_multiplier: float = 1.0
    attention_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(self.logits_scaling == 0, "logits_scaling must not be 0")


class Model(DenseModel):
    def logit_scale(self, args: Any) -> float:
        return 1 / args.logits_scaling
