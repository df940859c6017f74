"""Qwen3-VL: the text tower; text tokens have one position on all rope axes. Source: https://arxiv.org/abs/2511.21631."""

from .multimodal import TextTower
from .qwen3 import Model as TextModel
from .qwen3 import ModelArgs

__all__ = ["Model", "ModelArgs"]


class Model(TextTower):
    text_model = TextModel
