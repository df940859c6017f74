"""EXAONE 4.5's multimodal checkpoints: EXAONE 4 as the text tower. Source: https://arxiv.org/abs/2507.11407."""

from . import exaone4
from .multimodal import TextTower
from .weights import Drop

ModelArgs = exaone4.ModelArgs


class ExaoneText(exaone4.Model):
    rules = (Drop(r"^mtp\."),)


class Model(TextTower):
    text_model = ExaoneText
