"""FlexOlmo: OLMo 2 with OLMoE's experts. Source: https://arxiv.org/abs/2507.07024."""

from . import olmo2
from .weights import expert_rules


class ModelArgs(olmo2.ModelArgs):
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 4096
    rope_theta: float = 500000.0
    num_experts: int = 7
    num_experts_per_tok: int = 5
    norm_topk_prob: bool = False


class Model(olmo2.Model):
    rules = expert_rules()
