"""Qwen4-Exp's multimodal checkpoints: the text tower."""

from . import qwen4_exp_text
from .multimodal import TextTower

ModelArgs = qwen4_exp_text.ModelArgs


class Model(TextTower):
    text_model = qwen4_exp_text.Model
