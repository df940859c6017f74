"""MiniMax-M3: layers whose queries look at the best blocks of keys only, clamped experts. https://huggingface.co/MiniMaxAI.

A small indexer scores all keys; for each of its heads a query keeps the blocks that hold the best ones, and its own.
"""

from functools import partial
from typing import Any

from mlx import nn

from ..nn import LayerNames
from ..nn.block_sparse import BlockAttention, BlockOptions
from ..nn.mlp import GatedActivation
from .gpt_oss import clamped_swiglu
from .minimax_m2 import Experts
from .parts import DecoderArgs, DenseModel, Drop, Rename, expert_rules, split_pair


class ModelArgs(DecoderArgs):
    fixed = {"use_qk_norm": (True,)}
    nested = {"sparse_attention_config": {}}
    aliases = {
        "sparse_num_index_heads": "index_n_heads", "sparse_index_dim": "index_head_dim",
        "sparse_block_size": "index_block_size", "sparse_topk_blocks": "index_topk_blocks",
        "sparse_local_block": "index_local_blocks",
    }  # fmt: skip
    multiples = {"num_attention_heads": "index_n_heads", "index_head_dim": 2}
    per_layer = {"layer_types": ("minimax_m3_sparse", "full_attention"), "moe_layer_freq": ()}
    head_dim: int | None = 128
    max_position_embeddings: int = 524288
    rope_theta: float = 5000000.0
    partial_rotary_factor: float = 1.0
    dense_intermediate_size: int = 12288
    shared_intermediate_size: int = 3072
    num_local_experts: int = 128
    num_experts_per_tok: int = 4
    routed_scaling_factor: float = 2.0
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0
    mlp_layer_types: list[str] | None = None
    moe_layer_freq: list[int] | None = None
    layer_types: list[str] | None = None
    sparse_attention_freq: list[int] | None = None
    index_n_heads: int = 4
    index_head_dim: int = 128
    index_block_size: int = 128
    index_topk_blocks: int = 16
    index_local_blocks: int = 1

    def __post_init__(self) -> None:
        self.hidden_act = "silu"  # published configs say "swigluoai", which `swiglu_alpha` and `swiglu_limit` are
        super().__post_init__()
        sparse = self.sparse_attention_freq or [0] * self.num_hidden_layers
        self.layer_types = self.layer_types or ["minimax_m3_sparse" if s else "full_attention" for s in sparse]

    def layer_width(self, index: int) -> int:
        return self.dense_intermediate_size


class Model(DenseModel):
    norm_options = {"offset": 1.0}
    qk_norm = True
    moe_type = Experts
    moe_options = {"shared": "shared_intermediate_size", "correction": True}
    routing_options = {"score": "sigmoid"}
    rules = (
        Drop(r"(^|\.)mtp\."),
        Rename(r"\.mlp\.(gate|experts|shared_experts)\.", r".block_sparse_moe.\1."),
        Rename(r"\.self_attn\.index_([qk])_(proj|norm)\.", r".self_attn.indexer.\1_\2."),
        Rename(r"\.gate\.e_score_correction_bias$", ".e_score_correction_bias"),
        split_pair(r"(.*\.(?:mlp|shared_experts))\.gate_up_proj\.weight", r"\1"),
        *expert_rules("block_sparse_moe", ("w1", "w3", "w2")),
    )

    def names_at(self, args: Any, index: int) -> LayerNames:
        return LayerNames(feed_forward="block_sparse_moe" if args.has_experts(index) else "mlp")

    def mixer(self, args: Any, index: int) -> nn.Module:
        options = self.attention_options(args, index)
        if args.layer_types[index] == "full_attention":
            return self.attention_type(options)
        choice = args.index_block_size, args.index_topk_blocks, args.index_local_blocks
        return BlockAttention(
            options, BlockOptions(args.index_n_heads, args.index_head_dim, *choice, args.rms_norm_eps)
        )

    def activation(self, args: Any) -> GatedActivation:
        return partial(clamped_swiglu, alpha=args.swiglu_alpha, limit=args.swiglu_limit)
