"""Youtu-LLM: latent attention over dense feed-forwards. Source: https://arxiv.org/abs/2512.24618."""

from dataclasses import dataclass, field

from . import deepseek_v2


@dataclass
class ModelArgs(deepseek_v2.ModelArgs):
    max_position_embeddings: int = field(default=131072, kw_only=True)
    rope_theta: float = field(default=1600000.0, kw_only=True)
    tie_word_embeddings: bool = field(default=True, kw_only=True)
    n_routed_experts: int | None = None


class Model(deepseek_v2.Model):
    pass
