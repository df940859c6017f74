"""Qwen3.5, the text model: Qwen3-Next's layers with separate projections, dense feed-forwards."""

from . import qwen3_next


class ModelArgs(qwen3_next.ModelArgs):
    rope_theta: float = 10000000.0
    num_experts: int = 0
    fused = False


Model = qwen3_next.Model
