"""Gemma 3's multimodal checkpoints: the text tower. Source: https://arxiv.org/abs/2503.19786."""

from .gemma3_text import Model as TextModel
from .gemma3_text import ModelArgs
from .multimodal import TextTower

__all__ = ["Model", "ModelArgs"]


class Model(TextTower):
    text_model = TextModel
