"""Qwen3.5's multimodal checkpoints with experts: the text tower and its next-token head."""

from . import qwen3_5, qwen3_5_moe_text

ModelArgs = qwen3_5_moe_text.ModelArgs


class Model(qwen3_5.Model):
    text_model = qwen3_5_moe_text.Model
