"""dots.llm1: GLM-4.5's experts with norms on heads and, from some layer on, windows. https://arxiv.org/abs/2506.05767."""

from ..nn import MoE
from .dense import SlidingArgs
from .glm4_moe import Model as Glm4Moe
from .glm4_moe import ModelArgs as Glm4MoeArgs
from .weights import expert_rules


class ModelArgs(SlidingArgs, Glm4MoeArgs):
    partial_rotary_factor: float = 1.0
    use_qk_norm: bool = True
    sliding_window: int | None = 4096
    max_window_layers: int = 62
    first_k_dense_replace: int = 0
    norm_topk_prob: bool = False

    def __post_init__(self) -> None:
        if self.sliding_window is None:
            self.layer_types = None
        elif self.layer_types is None:
            kinds = ("full_attention", "sliding_attention")
            self.layer_types = [kinds[i >= self.max_window_layers] for i in range(self.num_hidden_layers)]
        super().__post_init__()


class Experts(MoE):
    experts_name = "experts"


class Model(Glm4Moe):
    rules = expert_rules(target="experts")
    moe_type = Experts
    attention = {}
