"""Gemma 4's checkpoints without towers, whose images and sounds are embedded like text: what reads and writes text."""

from . import gemma4_unified_text
from .multimodal import text_tower

Model, ModelArgs = text_tower(__name__, gemma4_unified_text)
