"""Hunyuan A13B: Hunyuan dense with experts beside a shared feed-forward. https://github.com/Tencent-Hunyuan."""

from dataclasses import dataclass
from typing import Any

import mlx.nn as nn

from ..errors import ConfigError
from ..nn import GatedMLP, MoE, Routing, SwitchGLU
from .granitemoe import Router
from .hunyuan_v1_dense import Model as Hunyuan
from .hunyuan_v1_dense import ModelArgs as HunyuanArgs
from .weights import expert_rules


@dataclass
class ModelArgs(HunyuanArgs):
    num_experts: int | list[int] = 1
    moe_topk: int | list[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_experts", "moe_topk"):
            value = getattr(self, name)
            if isinstance(value, list) and (len(value) != self.num_hidden_layers or min(value) < 1):
                raise ConfigError(f"config.json: {name} must have a positive number for each layer, not {value!r}.")


class Experts(MoE):
    shared_name = "shared_mlp"


class Model(Hunyuan):
    rules = expert_rules()

    @classmethod
    def feed_forward(cls, args: Any, index: int) -> nn.Module:
        count, top = (n if isinstance(n, int) else n[index] for n in (args.num_experts, args.moe_topk))
        width, size, act = args.hidden_size, args.intermediate_size, args.hidden_act
        shared = GatedMLP(width, size, act)
        moe = Experts(width, count, Routing(top), SwitchGLU(width, size, count, act=act), shared=shared)
        moe.gate = Router(width, count, "wg")
        return moe
