"""DeepSeek-V2: latent attention, shared and routed experts. Source: https://arxiv.org/abs/2405.04434."""

import math
from typing import Any, ClassVar

import mlx.nn as nn

from ..nn import LatentAttention, LatentOptions, Rope, Routing, make_rope
from .config import GroupedArgs, LlamaArgs, block_options, refuse
from .dense import DenseModel
from .experts import grouped_routing
from .weights import expert_rules


class ModelArgs(GroupedArgs, LlamaArgs):
    fixed = {"topk_method": ("greedy", "group_limited_greedy"), "scoring_func": ("softmax",)}
    kv_lora_rank: int = 512
    q_lora_rank: int | None = 1536
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    rope_interleave: bool = True
    n_routed_experts: int | None = 64
    n_shared_experts: int | None = 2
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int = 1407
    moe_layer_freq: int = 1
    first_k_dense_replace: int = 0
    n_group: int | None = None
    topk_group: int | None = None
    topk_method: str = "greedy"
    norm_topk_prob: bool = False

    def __post_init__(self) -> None:
        self.head_dim = self.qk_rope_head_dim  # what the rope rotates; other sizes are the latent layer's own
        super().__post_init__()
        same = self.num_key_value_heads == self.num_attention_heads
        refuse(not same, "num_key_value_heads must equal num_attention_heads with latent attention")
        lacks = self.topk_method == "group_limited_greedy" and not (self.n_group and self.topk_group)
        refuse(lacks, "topk_method 'group_limited_greedy' needs n_group and topk_group")

    @property
    def softmax_scale(self) -> float:
        """head_dim ** -0.5, and with YaRN its mscale twice."""
        scale = (self.qk_nope_head_dim + self.qk_rope_head_dim) ** -0.5
        rope = self.rope_parameters()
        if rope.kind not in ("default", "mrope") and rope.scaling.get("mscale_all_dim"):
            factor = rope.number("factor")
            if factor > 1:
                scale *= (0.1 * rope.number("mscale_all_dim") * math.log(factor) + 1.0) ** 2
        return scale


class Model(DenseModel):
    rules = expert_rules()
    mixer_type: ClassVar[type[Any]] = LatentAttention
    split_heads = False  # how checkpoints keep the per-head matrices, see `LatentOptions.split`

    def mixer(self, args: Any, index: int) -> nn.Module:
        return self.mixer_type(self.latent_options(args, index))

    def latent_options(self, args: Any, index: int) -> LatentOptions:
        """The attention of layer `index`."""
        own = {"value_dim": args.v_head_dim, "scale": args.softmax_scale, "norm_eps": 1e-6, "split": self.split_heads}
        biases = dict.fromkeys(("bias", "out_bias"), args.attention_bias)
        return block_options(LatentOptions, args, rope=self.rope(args, index), **own, **biases)

    def rope(self, args: Any, index: int) -> Rope | None:
        return make_rope(args.qk_rope_head_dim, args.rope_parameters(), traditional=args.rope_interleave)

    def routing(self, args: Any) -> Routing:
        groups = args.n_group if args.topk_method == "group_limited_greedy" else 1
        normalize = args.norm_topk_prob and args.num_experts_per_tok > 1
        scale = 1.0 if normalize else args.routed_scaling_factor
        options = {"num_groups": groups, "group_score": "max", "normalize": normalize, "scale": scale}
        return grouped_routing(args, "softmax", **options)
