"""Llama 4's multimodal checkpoints: the text tower."""

from .llama4_text import Model as TextModel
from .llama4_text import ModelArgs
from .multimodal import TextTower

__all__ = ["Model", "ModelArgs"]


class Model(TextTower):
    text_model = TextModel
