"""Qwen3-VL: the text tower; text tokens have one position on all rope axes. Source: https://arxiv.org/abs/2511.21631."""

from . import qwen3
from .multimodal import TextTower

ModelArgs = qwen3.ModelArgs


class Model(TextTower):
    text_model = qwen3.Model
