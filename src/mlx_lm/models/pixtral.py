"""Pixtral's text tower, which is Mistral (or Llama in some conversions). Source: https://arxiv.org/abs/2410.07073."""

from dataclasses import dataclass, field

from . import mistral
from .multimodal import TextTower

__all__ = ["Model", "ModelArgs"]


@dataclass
class ModelArgs(mistral.ModelArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = field(default=1e-5, kw_only=True)
    sliding_window: int | None = None


class Model(TextTower):
    text_model = mistral.Model
