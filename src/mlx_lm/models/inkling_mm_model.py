"""Inkling's multimodal checkpoints: the text tower."""

from . import inkling_text
from .multimodal import TextTower

ModelArgs = inkling_text.ModelArgs


class Model(TextTower):
    text_model = inkling_text.Model
    other_towers = r"^model\.(vision_tower|visual|audio_tower|audio)\."
