"""EXAONE 4.5's multimodal checkpoints: EXAONE 4 as the text tower. Source: https://arxiv.org/abs/2507.11407."""

from ..nn import named
from . import exaone4
from .multimodal import TextTower
from .weights import Drop

ModelArgs = exaone4.ModelArgs


class Model(TextTower):
    text_model = named(exaone4.Model, rules=(Drop(r"^mtp\."),))
