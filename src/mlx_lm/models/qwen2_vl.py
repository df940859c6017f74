"""Qwen2-VL: the text tower; text tokens have one position on all rope axes. Source: https://arxiv.org/abs/2409.12191."""

from . import qwen2
from .multimodal import TextTower

ModelArgs = qwen2.ModelArgs


class Model(TextTower):
    text_model = qwen2.Model
