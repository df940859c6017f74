"""Qwen4-Exp's multimodal checkpoints: the text tower."""

from . import qwen4_exp_text
from .multimodal import text_tower

Model, ModelArgs = text_tower(__name__, qwen4_exp_text)
