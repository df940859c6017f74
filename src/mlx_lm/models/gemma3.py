"""Gemma 3's multimodal checkpoints: the text tower. Source: https://arxiv.org/abs/2503.19786."""

from . import gemma3_text
from .multimodal import TextTower

ModelArgs = gemma3_text.ModelArgs


class Model(TextTower):
    text_model = gemma3_text.Model
