"""Pixtral's text tower, which is Mistral (or Llama in some conversions). Source: https://arxiv.org/abs/2410.07073."""

from . import mistral
from .multimodal import text_tower


class ModelArgs(mistral.ModelArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = 1e-5
    sliding_window: int | None = None


Model, _ = text_tower(__name__, mistral)
