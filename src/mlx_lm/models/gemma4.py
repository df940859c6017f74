"""Gemma 4's multimodal checkpoints: the text tower. Source: https://ai.google.dev/gemma/docs/core/model_card_4."""

from . import gemma4_text
from .multimodal import text_tower

Model, ModelArgs = text_tower(__name__, gemma4_text)
