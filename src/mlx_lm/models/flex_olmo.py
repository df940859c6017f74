"""FlexOlmo: OLMo 2 with OLMoE's experts. Source: https://arxiv.org/abs/2507.07024."""

from .olmo2 import Model as Olmo2
from .olmo2 import ModelArgs as Olmo2Args
from .weights import expert_rules


class ModelArgs(Olmo2Args):
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 4096
    rope_theta: float = 500000.0
    num_experts: int = 7
    num_experts_per_tok: int = 5
    norm_topk_prob: bool = False


class Model(Olmo2):
    rules = expert_rules()
