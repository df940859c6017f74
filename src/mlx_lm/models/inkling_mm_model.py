"""Inkling's multimodal checkpoints: the text tower."""

from . import inkling_text
from .multimodal import text_tower

Model, ModelArgs = text_tower(__name__, inkling_text)
