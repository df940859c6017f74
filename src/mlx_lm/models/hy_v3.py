"""Hunyuan 3: norms on queries and keys, sigmoid routing beside a shared feed-forward. https://huggingface.co/tencent."""

from ..nn import named
from .afmoe import Experts
from .config import LlamaArgs
from .dense import DenseModel
from .weights import Rename, expert_rules


class ModelArgs(LlamaArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 131072
    rope_theta: float = 11158840.0
    mlp_layer_types: list[str] | None = None
    first_k_dense_replace = 1  # without `mlp_layer_types`
    num_experts: int = 192
    num_experts_per_tok: int = 8
    num_shared_experts: int = 1
    moe_intermediate_size: int = 1536
    router_scaling_factor: float = 2.826


class Model(DenseModel):
    next_token_layers = True
    moe_type = named(Experts, experts_name="switch_mlp", shared_name="shared_mlp")
    moe_options = {"correction": True}
    routing_options = {"score": "sigmoid", "epsilon": 1e-20}
    qk_norm = True
    rules = (
        Rename(r"\.mlp\.gate\.", ".mlp.router.gate."),
        Rename(r"\.mlp\.e_score_correction_bias$", ".mlp.expert_bias"),
        Rename(r"\.mlp\.shared_experts\.", ".mlp.shared_mlp."),
        *expert_rules(),
    )
