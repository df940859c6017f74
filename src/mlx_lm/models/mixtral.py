"""Mixtral: experts in every layer, weights over the chosen ones. Source: https://arxiv.org/abs/2401.04088."""

from ..nn import LayerNames
from .parts import DenseModel, Rename, SlidingArgs, expert_rules


class ModelArgs(SlidingArgs):
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 131072


class Model(DenseModel):
    layer_names = LayerNames(feed_forward="block_sparse_moe")
    rules = (Rename(r"\.mlp\.", ".block_sparse_moe."), *expert_rules("block_sparse_moe", ("w1", "w3", "w2")))
