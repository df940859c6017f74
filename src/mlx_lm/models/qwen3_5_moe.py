"""Qwen3.5's multimodal checkpoints with experts: the text tower and its next-token head."""

from . import qwen3_5
from .qwen3_5_moe_text import Model as TextModel
from .qwen3_5_moe_text import ModelArgs

__all__ = ["Model", "ModelArgs"]


class Model(qwen3_5.Model):
    text_model = TextModel
