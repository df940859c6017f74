"""Hunyuan 3: norms on queries and keys, sigmoid routing beside a shared feed-forward. https://huggingface.co/tencent."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from mlx import nn

from ..nn import MoE, Routing
from .config import DecoderArgs, check_kinds
from .dense import DenseModel
from .experts import SPARSE_LAYERS, gated_moe
from .granitemoe import Router
from .weights import Rename, expert_rules


@dataclass
class ModelArgs(DecoderArgs):
    aliases: ClassVar = {"num_local_experts": "num_experts"}
    head_dim: int | None = 128
    rms_norm_eps: float = field(default=1e-5, kw_only=True)
    max_position_embeddings: int = 131072
    rope_theta: float = field(default=11158840.0, kw_only=True)
    attention_bias: bool = False
    mlp_bias: bool = False
    mlp_layer_types: list[str] | None = None
    num_experts: int = 192
    num_experts_per_tok: int = 8
    num_shared_experts: int = 1
    moe_intermediate_size: int = 1536
    router_scaling_factor: float = 2.826

    def __post_init__(self) -> None:
        super().__post_init__()
        count = self.num_hidden_layers
        self.mlp_layer_types = self.mlp_layer_types or ["dense"] + ["sparse"] * (count - 1)
        check_kinds(self, "mlp_layer_types", SPARSE_LAYERS)


class Experts(MoE):
    router_name, shared_name = "router", "shared_mlp"
    correction_on_router, correction_name = False, "expert_bias"


class Model(DenseModel):
    next_token_layers = True
    qk_norm = True
    rules = (
        Rename(r"\.mlp\.gate\.", ".mlp.router.gate."),
        Rename(r"\.mlp\.e_score_correction_bias$", ".mlp.expert_bias"),
        Rename(r"\.mlp\.shared_experts\.", ".mlp.shared_mlp."),
        *expert_rules(),
    )

    @classmethod
    def feed_forward(cls, args: Any, index: int) -> nn.Module:
        if args.mlp_layer_types[index] == "dense":
            return super().feed_forward(args, index)
        routing = Routing(args.num_experts_per_tok, "sigmoid", scale=args.router_scaling_factor, epsilon=1e-20)
        shared = args.moe_intermediate_size * args.num_shared_experts
        moe = gated_moe(args, routing, Experts, correction=True, shared=shared)
        moe.router = Router(args.hidden_size, args.num_experts, "gate")
        return moe
