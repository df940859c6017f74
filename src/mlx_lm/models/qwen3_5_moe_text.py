"""Qwen3.5 with experts, the text model: Qwen3-Next's layers with separate projections."""

from dataclasses import dataclass, field

from . import qwen3_5_text


@dataclass
class ModelArgs(qwen3_5_text.ModelArgs):
    intermediate_size: int = field(default=5632, kw_only=True)  # not in published configs: every layer has experts
    num_experts: int = 256
    num_experts_per_tok: int = 8


class Model(qwen3_5_text.Model):
    pass
