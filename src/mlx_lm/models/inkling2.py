"""Inkling 2's multimodal checkpoints: the text tower."""

from .inkling2_text import Model as TextModel
from .inkling2_text import ModelArgs
from .multimodal import TextTower

__all__ = ["Model", "ModelArgs"]


class Model(TextTower):
    text_model = TextModel
    other_towers = r"^model\.(vision_tower|visual)\."
