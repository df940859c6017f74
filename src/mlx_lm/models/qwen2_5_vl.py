"""Qwen2.5-VL: the text tower, as of Qwen2-VL. Source: https://arxiv.org/abs/2502.13923."""

from .multimodal import TextTower
from .qwen2 import Model as TextModel
from .qwen2 import ModelArgs

__all__ = ["Model", "ModelArgs"]


class Model(TextTower):
    text_model = TextModel
