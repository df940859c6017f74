"""Phi 3.5 MoE: two experts chosen one after the other (SparseMixer), layer norms. https://arxiv.org/abs/2404.14219."""

from typing import Any

import mlx.nn as nn

from ..nn import LayerNames, SparseMixer, SwitchGLU
from .parts import DenseModel, Rename, SlidingArgs, expert_rules


class ModelArgs(SlidingArgs):
    fixed = {"num_experts_per_tok": (2,)}
    aliases = {"rms_norm_eps": "layer_norm_eps"}
    layer_norm_eps: float = 1e-5
    max_position_embeddings: int = 131072
    original_max_position_embeddings: int | None = None
    attention_bias: bool = False
    lm_head_bias: bool = False
    num_local_experts: int = 16
    router_jitter_noise: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rope_scaling and "short_factor" in self.rope_scaling:
            # The published computation keeps the short factors at every length; only the magnitude changes.
            self.rope_scaling = {**self.rope_scaling, "long_factor": self.rope_scaling["short_factor"]}


class Model(DenseModel):
    layer_names = LayerNames(feed_forward="block_sparse_moe")
    head_bias = "lm_head_bias"
    rules = (
        Rename(r"\.mlp\.router\.", ".block_sparse_moe.gate."),
        Rename(r"\.mlp\.experts\.", ".block_sparse_moe.experts."),
        *expert_rules("block_sparse_moe", ("w1", "w3", "w2")),
    )

    def feed_forward(self, args: Any, index: int) -> nn.Module:
        width, count = args.hidden_size, args.num_local_experts
        experts = SwitchGLU(width, args.intermediate_size, count, act=args.hidden_act)
        return SparseMixer(width, count, experts, jitter=args.router_jitter_noise)
