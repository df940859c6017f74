"""Gemma 4's checkpoints without towers, whose images and sounds are embedded like text: what reads and writes text."""

from .gemma4_unified_text import Model as TextModel
from .gemma4_unified_text import ModelArgs
from .multimodal import TextTower

__all__ = ["Model", "ModelArgs"]


class Model(TextTower):
    text_model = TextModel
