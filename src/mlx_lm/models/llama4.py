"""Llama 4's multimodal checkpoints: the text tower."""

from . import llama4_text
from .multimodal import TextTower

ModelArgs = llama4_text.ModelArgs


class Model(TextTower):
    text_model = llama4_text.Model
