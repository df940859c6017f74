"""Kimi-VL: the text tower, which is DeepSeek-V3. Source: https://arxiv.org/abs/2504.07491."""

from .kimi_k25 import Model, ModelArgs

__all__ = ["Model", "ModelArgs"]
