"""Qwen 1.5 and 2 with experts, and one that every token visits behind a gate. https://arxiv.org/abs/2407.10671."""

from ..nn import MoE, named
from . import qwen3_moe
from .parts import DenseModel, expert_rules


class ModelArgs(qwen3_moe.ModelArgs):
    aliases = {"qkv_bias": "attention_bias"}
    attention_bias: bool = True
    num_experts: int = 60
    num_experts_per_tok: int = 4
    moe_intermediate_size: int = 1408
    shared_expert_intermediate_size: int = 5632
    max_window_layers: int = 28

    def slides(self, index: int) -> bool:
        return index % 2 == 0 and index < self.max_window_layers


Experts = named(MoE, shared_name="shared_expert")


class Model(DenseModel):
    moe_type = Experts
    attention = {"out_bias": False}
    moe_options = {"shared_gate": True}
    rules = expert_rules()
