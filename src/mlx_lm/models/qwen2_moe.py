"""Qwen 1.5 and 2 with experts, and one that every token visits behind a gate. https://arxiv.org/abs/2407.10671."""

from typing import Any

import mlx.nn as nn

from ..nn import AttentionOptions, MoE, Routing
from .dense import DenseModel
from .experts import gated_moe
from .qwen3_moe import ModelArgs as Qwen3MoeArgs
from .weights import expert_rules


class ModelArgs(Qwen3MoeArgs):
    qkv_bias: bool = True
    num_experts: int = 60
    num_experts_per_tok: int = 4
    moe_intermediate_size: int = 1408
    shared_expert_intermediate_size: int = 5632
    max_window_layers: int = 28

    def __post_init__(self) -> None:
        if self.use_sliding_window and self.layer_types is None:
            last = self.max_window_layers
            kinds = ("full_attention", "sliding_attention")
            self.layer_types = [kinds[i % 2 == 0 and i < last] for i in range(self.num_hidden_layers)]
        super().__post_init__()


class Experts(MoE):
    shared_name = "shared_expert"


class Model(DenseModel):
    rules = expert_rules()

    def attention_options(self, args: Any, index: int, **changes: Any) -> AttentionOptions:
        return super().attention_options(args, index, bias=args.qkv_bias, out_bias=False, **changes)

    def experts(self, args: Any) -> nn.Module:
        routing = Routing(args.num_experts_per_tok, normalize=args.norm_topk_prob)
        return gated_moe(args, routing, Experts, shared=args.shared_expert_intermediate_size, shared_gate=True)
