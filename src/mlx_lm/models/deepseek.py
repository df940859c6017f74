"""DeepSeek (the first) with experts: softmax routing, shared experts. Source: https://arxiv.org/abs/2401.06066."""

from .config import BiasArgs
from .dense import DenseModel
from .weights import expert_rules


class ModelArgs(BiasArgs):
    fixed = {"scoring_func": ("softmax",)}
    n_routed_experts: int | None = None
    n_shared_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int = 1407
    moe_layer_freq: int = 1
    first_k_dense_replace: int = 0
    norm_topk_prob: bool = False


class Model(DenseModel):
    routing_options = {"epsilon": 1e-20}
    rules = expert_rules()
