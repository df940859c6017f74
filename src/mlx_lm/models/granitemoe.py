"""Granite 3 with experts in every layer. Source: https://huggingface.co/ibm-granite/granite-3.1-3b-a800m-base."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..nn import LayerNames, Linear, MoE, Routing
from .experts import gated_moe
from .granite import Model as Granite
from .granite import ModelArgs as GraniteArgs
from .weights import Rename, expert_rules


@dataclass
class ModelArgs(GraniteArgs):
    num_local_experts: int = 8
    num_experts_per_tok: int = 2


class Router(nn.Module):
    """A linear layer, one name further down."""

    def __init__(self, hidden_size: int, num_experts: int, name: str = "layer"):
        super().__init__()
        self._name = name
        self[name] = Linear(hidden_size, num_experts, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self[self._name](x)


class Experts(MoE):
    router_name = "router"


class Model(Granite):
    layer_names = LayerNames(feed_forward="block_sparse_moe")
    rules = (
        Rename(r"(\.block_sparse_moe\.router)\.weight$", r"\1.layer.weight"),
        Rename(r"(\.block_sparse_moe)\.input_linear\.weight$", r"\1.experts.gate_up_proj"),
        Rename(r"(\.block_sparse_moe)\.output_linear\.weight$", r"\1.experts.down_proj"),
        *expert_rules("block_sparse_moe"),
    )

    @classmethod
    def feed_forward(cls, args: Any, index: int) -> nn.Module:
        moe = gated_moe(args, Routing(args.num_experts_per_tok, "softmax_topk"), Experts)
        moe.router = Router(args.hidden_size, args.num_local_experts)
        return moe
