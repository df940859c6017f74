"""GLM-4.5 to 4.7: sigmoid routing in groups with a selection bias, shared experts. https://arxiv.org/abs/2508.06471."""

from .config import BiasArgs, GroupedArgs
from .dense import DenseModel
from .weights import expert_rules


class ModelArgs(GroupedArgs, BiasArgs):
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 131072
    partial_rotary_factor: float = 0.5
    use_qk_norm: bool = False
    n_routed_experts: int = 128
    n_shared_experts: int = 1
    num_experts_per_tok: int = 8
    moe_intermediate_size: int = 1408
    first_k_dense_replace: int = 1


class Model(DenseModel):
    rules = expert_rules()
    qk_norm = "use_qk_norm"
    moe_options = {"correction": True}
    attention = {"out_bias": False}
    next_token_layers = True
