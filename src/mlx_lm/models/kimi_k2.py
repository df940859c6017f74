"""Kimi K2: DeepSeek-V3's computation under its own name. Source: https://arxiv.org/abs/2507.20534."""

from .deepseek_v3 import Model, ModelArgs

__all__ = ["Model", "ModelArgs"]
