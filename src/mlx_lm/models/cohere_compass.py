"""Compass, Cohere's vision models: the text tower."""

from .cohere_compass_text import Model as TextModel
from .cohere_compass_text import ModelArgs
from .multimodal import TextTower

__all__ = ["Model", "ModelArgs"]


class Model(TextTower):
    text_model = TextModel
