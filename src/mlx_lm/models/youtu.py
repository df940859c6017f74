"""Youtu-LLM: latent attention over dense feed-forwards. Source: https://arxiv.org/abs/2512.24618."""

from . import deepseek_v2


class ModelArgs(deepseek_v2.ModelArgs):
    max_position_embeddings: int = 131072
    rope_theta: float = 1600000.0
    tie_word_embeddings: bool = True
    n_routed_experts: int | None = None


Model = deepseek_v2.Model
