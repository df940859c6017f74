"""Qwen2.5-VL: the text tower, as of Qwen2-VL. Source: https://arxiv.org/abs/2502.13923."""

from . import qwen2
from .multimodal import text_tower

Model, ModelArgs = text_tower(__name__, qwen2)
