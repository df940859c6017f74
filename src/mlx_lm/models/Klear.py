"""Klear: each token weighs its routed experts against the shared one. https://huggingface.co/Kwai-Klear/Klear-46B-A2.5B-Base."""

from dataclasses import field
from typing import Any

import mlx.core as mx

from ..nn import Linear, MoE
from .parts import BiasArgs, DenseModel, expert_rules


class ModelArgs(BiasArgs):
    positive = ("n_shared_experts",)
    mlp_only_layers: list[int] = field(default_factory=list)
    decoder_sparse_step: int = 1
    num_experts: int = 256
    num_experts_per_tok: int = 8
    n_shared_experts: int = 1
    moe_intermediate_size: int = 896
    norm_topk_prob: bool = True


class WeighedExperts(MoE):
    experts_name = "experts"
    correction_on_router, correction_name = False, "expert_bias"

    def __init__(self, hidden_size: int, *parts: Any, **options: Any):
        super().__init__(hidden_size, *parts, **options)
        self.coefficient = Linear(hidden_size, 2)

    def __call__(self, x: mx.array) -> mx.array:
        shares = mx.softmax(self.coefficient(x), axis=-1, precise=True)
        flat = x.reshape(-1, x.shape[-1])
        chosen = self._visit(flat, *self.choose(self.gate(flat))).reshape(x.shape)
        return chosen * shares[..., :1] + self.shared_experts(x) * shares[..., 1:]


class Model(DenseModel):
    qk_norm = True
    moe_type = WeighedExperts
    moe_options = {"correction": True}
    routing_options = {"score": "sigmoid"}
    rules = expert_rules(target="experts")
