"""Command A with experts: Cohere 2's parallel layers, experts beside shared ones. https://arxiv.org/abs/2504.00698."""

from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import MoE, RMSNorm, Routing
from . import cohere2
from .parts import expert_rules, gated_moe


class ModelArgs(cohere2.ModelArgs):
    fixed = {"expert_selection_fn": ("softmax", "sigmoid"), "shared_expert_combination_strategy": ("average", "sum")}
    rms_norm_eps: float | None = None  # type: ignore[assignment]
    num_experts: int = 8
    num_experts_per_tok: int = 2
    num_shared_experts: int = 0
    shared_expert_combination_strategy: str = "average"
    expert_selection_fn: str = "softmax"
    norm_topk_prob: bool = True
    mlp_layer_types: list[str] | None = None
    first_k_dense_replace: int = 0
    prefix_dense_sliding_window_pattern: int = 1
    prefix_dense_intermediate_size: int | None = None

    def slides(self, index: int) -> bool:
        after, every = index - self.first_k_dense_replace, self.sliding_window_pattern or 4
        if after < 0:
            after, every = index, self.prefix_dense_sliding_window_pattern
        return (after + 1) % max(every, 1) != 0

    def layer_width(self, index: int) -> int:
        return self.prefix_dense_intermediate_size or self.intermediate_size


class AveragedExperts(MoE):
    """The mean of the routed and the shared experts' results."""

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x) * 0.5


class Model(cohere2.Model):
    rules = expert_rules()

    def has_rope(self, args: Any, index: int) -> bool:
        prefix = not args.has_experts(index) and args.prefix_dense_sliding_window_pattern == 1
        return prefix or super().has_rope(args, index)

    def norm(self, args: Any) -> nn.Module:
        return super().norm(args) if args.rms_norm_eps is None else RMSNorm(args.hidden_size, args.rms_norm_eps)

    def experts(self, args: Any) -> nn.Module:
        score = "softmax_topk" if args.expert_selection_fn == "softmax" else "sigmoid"
        routing = Routing(args.num_experts_per_tok, score, normalize=args.norm_topk_prob)
        averaged = args.num_shared_experts and args.shared_expert_combination_strategy == "average"
        return gated_moe(args, routing, AveragedExperts if averaged else MoE)
