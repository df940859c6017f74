"""Youtu-LLM under the name that its published config has. Source: https://arxiv.org/abs/2512.24618."""

from .youtu import Model, ModelArgs

__all__ = ["Model", "ModelArgs"]
