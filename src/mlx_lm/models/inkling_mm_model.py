"""Inkling's multimodal checkpoints: the text tower."""

from .inkling_text import Model as TextModel
from .inkling_text import ModelArgs
from .multimodal import TextTower

__all__ = ["Model", "ModelArgs"]


class Model(TextTower):
    text_model = TextModel
    other_towers = r"^model\.(vision_tower|visual|audio_tower|audio)\."
