"""Gemma 3's multimodal checkpoints: the text tower. Source: https://arxiv.org/abs/2503.19786."""

from . import gemma3_text
from .multimodal import text_tower

Model, ModelArgs = text_tower(__name__, gemma3_text)
