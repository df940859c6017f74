"""Hunyuan 3: norms on queries and keys, sigmoid routing beside a shared feed-forward. https://huggingface.co/tencent."""

from ..nn import MoE
from .config import DecoderArgs
from .dense import DenseModel
from .weights import Rename, expert_rules


class ModelArgs(DecoderArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 131072
    rope_theta: float = 11158840.0
    attention_bias: bool = False
    mlp_bias: bool = False
    mlp_layer_types: list[str] | None = None
    num_experts: int = 192
    num_experts_per_tok: int = 8
    num_shared_experts: int = 1
    moe_intermediate_size: int = 1536
    router_scaling_factor: float = 2.826

    def __post_init__(self) -> None:
        self.mlp_layer_types = self.mlp_layer_types or ["dense"] + ["sparse"] * (self.num_hidden_layers - 1)
        super().__post_init__()


class Experts(MoE):
    router_name, router_layer, shared_name = "router", "gate", "shared_mlp"
    correction_on_router, correction_name = False, "expert_bias"


class Model(DenseModel):
    next_token_layers = True
    moe_type = Experts
    moe_options = {"correction": True}
    routing_options = {"score": "sigmoid", "epsilon": 1e-20}
    qk_norm = True
    rules = (
        Rename(r"\.mlp\.gate\.", ".mlp.router.gate."),
        Rename(r"\.mlp\.e_score_correction_bias$", ".mlp.expert_bias"),
        Rename(r"\.mlp\.shared_experts\.", ".mlp.shared_mlp."),
        *expert_rules(),
    )
