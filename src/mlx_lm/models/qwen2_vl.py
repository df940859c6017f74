"""Qwen2-VL: the text tower; text tokens have one position on all rope axes. Source: https://arxiv.org/abs/2409.12191."""

from . import qwen2
from .multimodal import text_tower

Model, ModelArgs = text_tower(__name__, qwen2)
