"""Gemma 3n's multimodal checkpoints: the text tower. Source: https://ai.google.dev/gemma/docs/gemma-3n."""

from . import gemma3n_text
from .multimodal import TextTower

ModelArgs = gemma3n_text.ModelArgs


class Model(TextTower):
    text_model = gemma3n_text.Model
