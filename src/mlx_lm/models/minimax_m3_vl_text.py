"""MiniMax-M3: layers whose queries look at the best blocks of keys only, clamped experts. https://huggingface.co/MiniMaxAI.

A small indexer scores all keys; for each of its heads a query keeps the blocks that hold the best ones, and its own.
"""

from functools import partial
from typing import Any

from mlx import nn

from ..errors import ConfigError
from ..nn import GatedMLP, LayerNames, MoE, RMSNorm
from ..nn.block_sparse import BlockAttention, BlockOptions
from .config import DecoderArgs, check_kinds
from .dense import DenseModel
from .experts import gated_moe, usual_routing
from .gpt_oss import clamped_swiglu
from .weights import Drop, Rename, Split, expert_rules

_SPARSE_NAMES = {
    "sparse_num_index_heads": "index_n_heads", "sparse_index_dim": "index_head_dim",
    "sparse_block_size": "index_block_size", "sparse_topk_blocks": "index_topk_blocks",
    "sparse_local_block": "index_local_blocks",
}  # fmt: skip


class ModelArgs(DecoderArgs):
    fixed = {"use_qk_norm": (True,)}
    head_dim: int | None = 128
    hidden_act: str = "silu"
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
    sparse_attention_config: dict[str, Any] | None = None
    index_n_heads: int = 4
    index_head_dim: int = 128
    index_block_size: int = 128
    index_topk_blocks: int = 16
    index_local_blocks: int = 1

    def __post_init__(self) -> None:
        self.hidden_act = "silu"  # published configs say "swigluoai", which `swiglu_alpha` and `swiglu_limit` are
        super().__post_init__()
        count, sparse = self.num_hidden_layers, self.sparse_attention_config or {}
        for name, own in _SPARSE_NAMES.items():
            if isinstance(sparse.get(name), int):
                setattr(self, own, sparse[name])
        if self.layer_types is None:
            freq = sparse.get("sparse_attention_freq") or [0] * count
            self.layer_types = ["minimax_m3_sparse" if f else "full_attention" for f in freq]
        if self.mlp_layer_types is None:
            self.mlp_layer_types = ["sparse" if f else "dense" for f in self.moe_layer_freq or [1] * count]
        check_kinds(self, "layer_types", ("minimax_m3_sparse", "full_attention"))
        check_kinds(self, "mlp_layer_types", self.feed_forward_kinds)
        sizes = (self.index_n_heads, self.index_head_dim, self.index_block_size, self.index_topk_blocks)
        if min(sizes) < 1 or self.num_attention_heads % self.index_n_heads or self.index_head_dim % 2:
            raise ConfigError("config.json: the index_... sizes must be positive and fit num_attention_heads.")


class Experts(MoE):
    correction_on_router = False


class Model(DenseModel):
    norm_options = {"offset": 1.0}
    rules = (
        Drop(r"(^|\.)mtp\."),
        Rename(r"\.mlp\.(gate|experts|shared_experts)\.", r".block_sparse_moe.\1."),
        Rename(r"\.self_attn\.index_([qk])_(proj|norm)\.", r".self_attn.indexer.\1_\2."),
        Rename(r"\.gate\.e_score_correction_bias$", ".e_score_correction_bias"),
        Split(r"(.*\.(?:mlp|shared_experts))\.gate_up_proj\.weight", (r"\1.gate_proj.weight", r"\1.up_proj.weight")),
        *expert_rules("block_sparse_moe", ("w1", "w3", "w2")),
    )

    def names_at(self, args: Any, index: int) -> LayerNames:
        return LayerNames(feed_forward="mlp" if args.mlp_layer_types[index] == "dense" else "block_sparse_moe")

    def mixer(self, args: Any, index: int) -> nn.Module:
        norm = partial(RMSNorm, eps=args.rms_norm_eps, offset=1.0)
        options = self.attention_options(args, index, qk_norm=norm)
        return (
            BlockAttention(options, self.blocks(args))
            if args.layer_types[index] != "full_attention"
            else self.attention_type(options)
        )

    def blocks(self, args: Any) -> BlockOptions:
        choice = args.index_block_size, args.index_topk_blocks, args.index_local_blocks
        return BlockOptions(args.index_n_heads, args.index_head_dim, *choice, args.rms_norm_eps)

    def feed_forward(self, args: Any, index: int) -> nn.Module:
        act = partial(clamped_swiglu, alpha=args.swiglu_alpha, limit=args.swiglu_limit)
        if not args.has_experts(index):
            return GatedMLP(args.hidden_size, args.dense_intermediate_size, act)
        routing = usual_routing(args, score="sigmoid")
        return gated_moe(args, routing, Experts, act=act, shared=args.shared_intermediate_size, correction=True)
