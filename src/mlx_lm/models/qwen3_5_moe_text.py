"""Qwen3.5 with experts, the text model: Qwen3-Next's layers with separate projections."""

from . import qwen3_5_text


class ModelArgs(qwen3_5_text.ModelArgs):
    intermediate_size: int = 5632  # not in published configs: every layer has experts
    num_experts: int = 256
    num_experts_per_tok: int = 8


Model = qwen3_5_text.Model
