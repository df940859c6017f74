"""Gemma 2: norms around both branches, soft-capped scores and logits. Source: https://arxiv.org/abs/2408.00118."""

from ..nn import SANDWICH_NORM
from . import gemma
from .dense import SlidingArgs


class ModelArgs(SlidingArgs, gemma.ModelArgs):
    hidden_activation: str = "gelu_pytorch_tanh"
    query_pre_attn_scalar: float = 256.0
    sliding_window: int | None = 4096
    sliding_window_pattern: int | None = 2
    attn_logit_softcapping: float | None = 50.0
    final_logit_softcapping: float | None = 30.0


class Model(gemma.Model):
    layer_names = SANDWICH_NORM
