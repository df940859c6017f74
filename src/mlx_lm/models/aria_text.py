"""Aria's text model: Llama with experts beside shared ones. Source: https://arxiv.org/abs/2410.05993."""

from ..nn import MoE, named
from .config import LlamaArgs
from .dense import DenseModel
from .weights import Rename, Transform, expert_rules


class ModelArgs(LlamaArgs):
    moe_num_experts: int = 8
    moe_topk: int = 2
    moe_num_shared_experts: int = 2


Experts = named(MoE, router_name="router")


class Model(DenseModel):
    moe_type = Experts
    routing_options = {"score": "softmax_topk"}
    rules = (
        Transform(r"\.mlp\.experts\.(fc[12]\.weight|gate_up_proj|down_proj)$", lambda w: w.swapaxes(1, 2)),
        Rename(r"\.mlp\.experts\.fc1\.weight$", ".mlp.experts.gate_up_proj"),
        Rename(r"\.mlp\.experts\.fc2\.weight$", ".mlp.experts.down_proj"),
        *expert_rules(),
    )
