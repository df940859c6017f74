"""Klear: each token weighs its routed experts against the shared one. https://huggingface.co/Kwai-Klear/Klear-46B-A2.5B-Base."""

from dataclasses import field
from typing import Any

import mlx.core as mx
from mlx import nn

from ..errors import ConfigError
from ..nn import GatedMLP, Linear, MoE, Routing, SwitchGLU
from .config import BiasArgs
from .dense import DenseModel
from .weights import expert_rules


class ModelArgs(BiasArgs):
    mlp_only_layers: list[int] = field(default_factory=list)
    decoder_sparse_step: int = 1
    num_experts: int = 256
    num_experts_per_tok: int = 8
    n_shared_experts: int = 1
    moe_intermediate_size: int = 896
    norm_topk_prob: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.num_experts_per_tok <= self.num_experts or self.n_shared_experts < 1:
            raise ConfigError("config.json: num_experts_per_tok must be within num_experts, n_shared_experts positive.")


class WeighedExperts(MoE):
    experts_name, shared_name = "experts", "none"
    correction_on_router, correction_name = False, "expert_bias"

    def __init__(self, args: ModelArgs):
        width, size, count, act = args.hidden_size, args.moe_intermediate_size, args.num_experts, args.hidden_act
        routing = Routing(args.num_experts_per_tok, "sigmoid", normalize=args.norm_topk_prob)
        super().__init__(width, count, routing, SwitchGLU(width, size, count, act=act), correction=True)
        self.shared_experts = GatedMLP(width, size * args.n_shared_experts, act)
        self.coefficient = Linear(width, 2)

    def __call__(self, x: mx.array) -> mx.array:
        shares = mx.softmax(self.coefficient(x), axis=-1, precise=True)
        return super().__call__(x) * shares[..., :1] + self.shared_experts(x) * shares[..., 1:]


class Model(DenseModel):
    qk_norm = True
    rules = expert_rules(target="experts")

    def experts(self, args: Any) -> nn.Module:
        return WeighedExperts(args)
