"""Hunyuan A13B: Hunyuan dense with experts beside a shared feed-forward. https://github.com/Tencent-Hunyuan."""

from typing import Any

import mlx.nn as nn

from ..nn import MoE, named
from . import hunyuan_v1_dense
from .weights import expert_rules


class ModelArgs(hunyuan_v1_dense.ModelArgs):
    positive = ("num_experts", "moe_topk")
    per_layer = dict.fromkeys(positive, ())
    num_experts: int | list[int] = 1
    moe_topk: int | list[int] = 1


class Model(hunyuan_v1_dense.Model):
    rules = expert_rules()
    moe_type = named(MoE, router_layer="wg", shared_name="shared_mlp")
    moe_options = {"shared": "intermediate_size"}

    def feed_forward(self, args: Any, index: int) -> nn.Module:
        return self.experts(args.at(index))
