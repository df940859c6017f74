"""Gemma 4's multimodal checkpoints: the text tower. Source: https://ai.google.dev/gemma/docs/core/model_card_4."""

from . import gemma4_text
from .multimodal import TextTower

ModelArgs = gemma4_text.ModelArgs


class Model(TextTower):
    text_model = gemma4_text.Model
