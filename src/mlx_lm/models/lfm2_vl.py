"""LFM2-VL: the text tower, an LFM2. Source: https://huggingface.co/LiquidAI/LFM2-VL-1.6B."""

from . import lfm2
from .lfm2 import ModelArgs
from .multimodal import TextTower

__all__ = ["Model", "ModelArgs"]


class Model(TextTower):
    text_model = lfm2.Model
