"""Inkling 2's multimodal checkpoints: the text tower."""

from . import inkling2_text
from .multimodal import text_tower

Model, ModelArgs = text_tower(__name__, inkling2_text)
