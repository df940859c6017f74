"""Aria's text model: Llama with experts beside shared ones. Source: https://arxiv.org/abs/2410.05993."""

from ..nn import MoE, named
from .config import LlamaArgs
from .dense import DenseModel
from .weights import Rename, Split, Transform


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
        Split(
            r"(.*\.mlp)\.experts\.(?:fc1\.weight|gate_up_proj)",
            (r"\1.switch_mlp.gate_proj.weight", r"\1.switch_mlp.up_proj.weight"),
            1,
        ),
        Rename(r"\.mlp\.experts\.(fc2\.weight|down_proj)$", ".mlp.switch_mlp.down_proj.weight"),
    )
