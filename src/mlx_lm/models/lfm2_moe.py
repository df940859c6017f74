"""LFM2 with experts: sigmoid routing with a selection bias, dense first layers. https://arxiv.org/abs/2511.23404."""

from ..nn import GatedMLP, MoE, named
from . import lfm2
from .weights import expert_rules, rename_parts


class ModelArgs(lfm2.ModelArgs):
    aliases = {**lfm2.ModelArgs.aliases, "num_dense_layers": "first_k_dense_replace"}
    block_auto_adjust_ff_dim: bool = False
    num_experts: int = 32
    num_experts_per_tok: int = 4
    first_k_dense_replace: int = 2
    moe_intermediate_size: int = 1792
    norm_topk_prob: bool = True
    use_expert_bias: bool = True
    routed_scaling_factor: float = 1.0


class Model(lfm2.Model):
    feed_forward_type = GatedMLP
    moe_type = named(MoE, correction_on_router=False, correction_name="expert_bias")
    moe_options = {"correction": "use_expert_bias"}
    routing_options = {"score": "sigmoid", "epsilon": 1e-6}
    rules = (
        *expert_rules("feed_forward", ("w1", "w3", "w2")),
        *rename_parts({"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}),
    )
