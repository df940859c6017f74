"""Gemma 3n's multimodal checkpoints: the text tower. Source: https://ai.google.dev/gemma/docs/gemma-3n."""

from .gemma3n_text import Model as TextModel
from .gemma3n_text import ModelArgs
from .multimodal import TextTower

__all__ = ["Model", "ModelArgs"]


class Model(TextTower):
    text_model = TextModel
