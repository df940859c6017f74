"""Llama 4's multimodal checkpoints: the text tower."""

from . import llama4_text
from .multimodal import text_tower

Model, ModelArgs = text_tower(__name__, llama4_text)
