"""Qwen2.5-VL: the text tower, as of Qwen2-VL. Source: https://arxiv.org/abs/2502.13923."""

from . import qwen2
from .multimodal import TextTower

ModelArgs = qwen2.ModelArgs


class Model(TextTower):
    text_model = qwen2.Model
