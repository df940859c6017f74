"""dots.llm1: GLM-4.5's experts with norms on heads and, from some layer on, windows. https://arxiv.org/abs/2506.05767."""

from ..nn import MoE, named
from . import glm4_moe
from .parts import SlidingArgs, expert_rules


class ModelArgs(SlidingArgs, glm4_moe.ModelArgs):
    partial_rotary_factor: float = 1.0
    use_qk_norm: bool = True
    sliding_window: int | None = 4096
    max_window_layers: int = 62
    first_k_dense_replace: int = 0
    norm_topk_prob: bool = False

    def slides(self, index: int) -> bool:
        return index >= self.max_window_layers


class Model(glm4_moe.Model):
    rules = expert_rules(target="experts")
    moe_type = named(MoE, experts_name="experts")
    attention = {}
