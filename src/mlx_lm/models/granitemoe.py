"""Granite 3 with experts in every layer. Source: https://huggingface.co/ibm-granite/granite-3.1-3b-a800m-base."""

from ..nn import LayerNames, MoE, named
from . import granite
from .weights import Rename, expert_rules


class ModelArgs(granite.ModelArgs):
    num_local_experts: int = 8
    num_experts_per_tok: int = 2


Experts = named(MoE, router_name="router", router_layer="layer")


class Model(granite.Model):
    layer_names = LayerNames(feed_forward="block_sparse_moe")
    moe_type = Experts
    routing_options = {"score": "softmax_topk"}
    rules = (
        Rename(r"(\.block_sparse_moe\.router)\.weight$", r"\1.layer.weight"),
        Rename(r"(\.block_sparse_moe)\.input_linear\.weight$", r"\1.experts.gate_up_proj"),
        Rename(r"(\.block_sparse_moe)\.output_linear\.weight$", r"\1.experts.down_proj"),
        *expert_rules("block_sparse_moe"),
    )
