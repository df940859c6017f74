"""Inkling 2's multimodal checkpoints: the text tower."""

from . import inkling2_text
from .multimodal import TextTower

ModelArgs = inkling2_text.ModelArgs


class Model(TextTower):
    text_model = inkling2_text.Model
    other_towers = r"^model\.(vision_tower|visual)\."
