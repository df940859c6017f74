"""Qwen3.5, the text model: Qwen3-Next's layers with separate projections, dense feed-forwards."""

from dataclasses import dataclass, field

from . import qwen3_next


@dataclass
class ModelArgs(qwen3_next.ModelArgs):
    rope_theta: float = field(default=10000000.0, kw_only=True)
    num_experts: int = 0


class Model(qwen3_next.Model):
    fused = False
