"""Qwen4-Exp's multimodal checkpoints: the text tower."""

from .multimodal import TextTower
from .qwen4_exp_text import Model as TextModel
from .qwen4_exp_text import ModelArgs

__all__ = ["Model", "ModelArgs"]


class Model(TextTower):
    text_model = TextModel
