"""Hunyuan A13B: Hunyuan dense with experts beside a shared feed-forward. https://github.com/Tencent-Hunyuan."""

from typing import Any

import mlx.nn as nn

from ..nn import GatedMLP, MoE, Routing, SwitchGLU
from .config import check_numbers
from .hunyuan_v1_dense import Model as Hunyuan
from .hunyuan_v1_dense import ModelArgs as HunyuanArgs
from .weights import expert_rules


class ModelArgs(HunyuanArgs):
    num_experts: int | list[int] = 1
    moe_topk: int | list[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_experts", "moe_topk"):
            if isinstance(getattr(self, name), list):
                check_numbers(self, name)


class Experts(MoE):
    router_layer, shared_name = "wg", "shared_mlp"


class Model(Hunyuan):
    rules = expert_rules()

    def feed_forward(self, args: Any, index: int) -> nn.Module:
        count, top = (n if isinstance(n, int) else n[index] for n in (args.num_experts, args.moe_topk))
        width, size, act = args.hidden_size, args.intermediate_size, args.hidden_act
        shared = GatedMLP(width, size, act)
        return Experts(width, count, Routing(top), SwitchGLU(width, size, count, act=act), shared=shared)
