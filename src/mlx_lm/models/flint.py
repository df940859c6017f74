"""Flint: Qwen 3 with experts, attention sinks, and positions only where attention slides.

Source: https://huggingface.co/RecursiveSI/flint.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from mlx import nn

from ..nn import AttentionOptions, GatedMLP, RMSNorm, Rope, Routing, SwitchGLU
from .dense import DenseModel, SlidingArgs
from .qwen2_moe import Experts
from .weights import Rename, expert_rules


@dataclass
class ModelArgs(SlidingArgs):
    aliases: ClassVar = {"num_local_experts": "num_experts"}
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
    rules = (Rename(r"\.self_attn\.softmax_offset$", ".self_attn.sinks"), *expert_rules())

    @classmethod
    def attention_options(cls, args: Any, index: int, **changes: Any) -> AttentionOptions:
        norm = partial(RMSNorm, eps=args.rms_norm_eps)
        return super().attention_options(args, index, qk_norm=norm, sinks=True, **changes)

    @classmethod
    def rope(cls, args: Any, index: int) -> Rope | None:
        return None if args.window(index) is None else super().rope(args, index)

    @classmethod
    def feed_forward(cls, args: Any, index: int) -> nn.Module:
        if not args.has_experts(index):
            return super().feed_forward(args, index)
        width, count, act = args.hidden_size, args.num_experts, args.hidden_act
        experts = SwitchGLU(width, args.moe_intermediate_size, count, act=act)
        shared = GatedMLP(width, args.shared_expert_intermediate_size, act)
        routing = Routing(args.num_experts_per_tok, "sigmoid", normalize=args.norm_topk_prob)
        return Experts(width, count, routing, experts, shared=shared)
