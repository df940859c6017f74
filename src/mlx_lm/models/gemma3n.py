"""Gemma 3n's multimodal checkpoints: the text tower. Source: https://ai.google.dev/gemma/docs/gemma-3n."""

from . import gemma3n_text
from .multimodal import text_tower

Model, ModelArgs = text_tower(__name__, gemma3n_text)
