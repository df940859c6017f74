"""Qwen 3 with experts, dense in the layers that the config names. Source: https://arxiv.org/abs/2505.09388."""

from dataclasses import field

from . import qwen3
from .parts import SlidingArgs, expert_rules


class ModelArgs(SlidingArgs):
    attention_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_position_embeddings: int = 32768
    num_experts: int = 128
    num_experts_per_tok: int = 8
    moe_intermediate_size: int = 768
    decoder_sparse_step: int = 1
    mlp_only_layers: list[int] = field(default_factory=list)
    norm_topk_prob: bool = False


class Model(qwen3.Model):
    rules = expert_rules()
