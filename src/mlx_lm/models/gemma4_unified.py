"""Gemma 4's checkpoints without towers, whose images and sounds are embedded like text: what reads and writes text."""

from . import gemma4_unified_text
from .multimodal import TextTower

ModelArgs = gemma4_unified_text.ModelArgs


class Model(TextTower):
    text_model = gemma4_unified_text.Model
