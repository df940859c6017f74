"""EXAONE 4.5's multimodal checkpoints: EXAONE 4 as the text tower. Source: https://arxiv.org/abs/2507.11407."""

from .exaone4 import Model as TextModel
from .exaone4 import ModelArgs
from .multimodal import TextTower
from .weights import Drop

__all__ = ["Model", "ModelArgs"]


class ExaoneText(TextModel):
    rules = (Drop(r"^mtp\."),)


class Model(TextTower):
    text_model = ExaoneText
