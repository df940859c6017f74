"""DeepSeek-V2: latent attention, shared and routed experts. Source: https://arxiv.org/abs/2405.04434."""

import math
from typing import Any, ClassVar

import mlx.nn as nn

from ..errors import ConfigError
from ..nn import LatentAttention, LatentOptions, Rope, Routing, make_rope
from .config import DecoderArgs
from .dense import DenseModel
from .experts import gated_moe
from .weights import expert_rules


class ModelArgs(DecoderArgs):
    # What `topk_method` and `scoring_func` may be; None for families with one router, whatever a config calls it.
    routers: ClassVar[tuple[tuple[str, ...], str] | None] = ("greedy", "group_limited_greedy"), "softmax"
    kv_lora_rank: int = 512
    q_lora_rank: int | None = 1536
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    attention_bias: bool = False
    mlp_bias: bool = False
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
    scoring_func: str = "softmax"
    norm_topk_prob: bool = False
    routed_scaling_factor: float = 1.0

    def __post_init__(self) -> None:
        self.head_dim = self.qk_rope_head_dim  # what the rope rotates; other sizes are the latent layer's own
        super().__post_init__()
        if self.num_key_value_heads != self.num_attention_heads:
            raise ConfigError("config.json: num_key_value_heads must equal num_attention_heads with latent attention.")
        if self.n_routed_experts:
            self.check_routing()

    def check_routing(self) -> None:
        """Raises ConfigError for a router that the family does not have."""
        methods, score = self.routers or ((self.topk_method,), self.scoring_func)
        if self.topk_method not in methods or self.scoring_func != score:
            raise ConfigError(
                f"config.json: topk_method={self.topk_method!r} with scoring_func={self.scoring_func!r} is not "
                f"supported for model type {self.model_type!r}; known: {methods} with {score!r}."
            )
        grouped = self.topk_method == "group_limited_greedy"
        for name in ("num_experts_per_tok", *(("n_group", "topk_group") if grouped else ())):
            if not getattr(self, name):
                raise ConfigError(f"config.json has no {name!r}, which {self.model_type!r} needs.")

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

    def routing(self) -> Routing:
        grouped, count = self.topk_method == "group_limited_greedy", self.num_experts_per_tok or 1
        normalize = self.norm_topk_prob and count > 1
        return Routing(
            count,
            normalize=normalize,
            scale=1.0 if normalize else self.routed_scaling_factor,
            num_groups=(self.n_group or 1) if grouped else 1,
            top_groups=(self.topk_group or 1) if grouped else 1,
            epsilon=1e-20,
        )


class Model(DenseModel):
    rules = expert_rules()
    split_heads = False  # how checkpoints keep the per-head matrices, see `LatentOptions.split`

    def mixer(self, args: Any, index: int) -> nn.Module:
        return LatentAttention(self.latent_options(args, index))

    def latent_options(self, args: Any, index: int) -> LatentOptions:
        """The attention of layer `index`."""
        return LatentOptions(
            hidden_size=args.hidden_size,
            num_heads=args.num_attention_heads,
            q_rank=args.q_lora_rank,
            kv_rank=args.kv_lora_rank,
            nope_dim=args.qk_nope_head_dim,
            rope_dim=args.qk_rope_head_dim,
            value_dim=args.v_head_dim,
            rope=self.rope(args, index),
            scale=args.softmax_scale,
            bias=args.attention_bias,
            out_bias=args.attention_bias,
            split=self.split_heads,
        )

    def rope(self, args: Any, index: int) -> Rope | None:
        return make_rope(args.qk_rope_head_dim, args.rope_parameters(), traditional=args.rope_interleave)

    def experts(self, args: Any) -> nn.Module:
        routing = args.routing()
        correction = routing.score == "sigmoid"
        return gated_moe(args, routing, self.moe_type, act=self.activation(args), correction=correction)
