"""Flint: Qwen 3 with experts, attention sinks, and positions only where attention slides.

Source: https://huggingface.co/RecursiveSI/flint.
"""

from typing import Any, ClassVar

from mlx import nn

from ..nn import Routing
from .dense import DenseModel, SlidingArgs
from .experts import gated_moe
from .qwen2_moe import Experts
from .weights import Rename, expert_rules


class ModelArgs(SlidingArgs):
    head_dim: int | None = 128
    max_position_embeddings: int = 262144
    attention_bias: bool = False
    sliding_window: int | None = 513
    num_experts: int = 256
    num_experts_per_tok: int = 6
    moe_intermediate_size: int = 512
    shared_expert_intermediate_size: int = 1024
    decoder_sparse_step: int = 1
    mlp_only_layers: list[int] | None = None
    norm_topk_prob: bool = True

    def __post_init__(self) -> None:
        last = self.num_hidden_layers - 1
        if self.layer_types is None:
            full = [i < 2 or i % 4 == 1 or i == last for i in range(last + 1)]
            self.layer_types = ["full_attention" if f else "sliding_attention" for f in full]
        if self.mlp_only_layers is None:
            self.mlp_only_layers = [0, 1]
        super().__post_init__()

    def has_experts(self, index: int) -> bool:
        sparse = self.num_experts > 0 and (index + 1) % self.decoder_sparse_step == 0
        return sparse and index not in (self.mlp_only_layers or ())


class Model(DenseModel):
    rope_where_sliding = True
    qk_norm = True
    attention: ClassVar = {"sinks": True}
    rules = (Rename(r"\.self_attn\.softmax_offset$", ".self_attn.sinks"), *expert_rules())

    def experts(self, args: Any) -> nn.Module:
        routing = Routing(args.num_experts_per_tok, "sigmoid", normalize=args.norm_topk_prob)
        return gated_moe(args, routing, Experts, shared=args.shared_expert_intermediate_size)
