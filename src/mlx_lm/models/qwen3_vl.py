"""Qwen3-VL: the text tower; text tokens have one position on all rope axes. Source: https://arxiv.org/abs/2511.21631."""

from . import qwen3
from .multimodal import text_tower

Model, ModelArgs = text_tower(__name__, qwen3)
