"""Qwen2-VL: the text tower; text tokens have one position on all rope axes. Source: https://arxiv.org/abs/2409.12191."""

from .multimodal import TextTower
from .qwen2 import Model as TextModel
from .qwen2 import ModelArgs

__all__ = ["Model", "ModelArgs"]


class Model(TextTower):
    text_model = TextModel
