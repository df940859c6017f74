"""Gemma 4's multimodal checkpoints: the text tower. Source: https://ai.google.dev/gemma/docs/core/model_card_4."""

from .gemma4_text import Model as TextModel
from .gemma4_text import ModelArgs
from .multimodal import TextTower

__all__ = ["Model", "ModelArgs"]


class Model(TextTower):
    text_model = TextModel
