"""MiniMax-M3: layers whose queries look at the best blocks of keys only, clamped experts. https://huggingface.co/MiniMaxAI.

A small indexer scores all keys; for each of its heads a query keeps the blocks that hold the best ones, and its own.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx
from mlx import nn

from ..errors import ConfigError
from ..kernels import KVView
from ..nn import (
    AttentionOptions,
    BiasedAttention,
    GatedMLP,
    LayerNames,
    Linear,
    MoE,
    RMSNorm,
    Routing,
    SwitchGLU,
)
from ..state import KVSpec, LayerState, ListSpec, StateSpec, attend_states, offsets, part
from .config import DecoderArgs
from .dense import DenseModel
from .gpt_oss import clamped_swiglu
from .weights import Drop, Rename, Split, expert_rules

_SPARSE_NAMES = {
    "sparse_num_index_heads": "index_n_heads", "sparse_index_dim": "index_head_dim",
    "sparse_block_size": "index_block_size", "sparse_topk_blocks": "index_topk_blocks",
    "sparse_local_block": "index_local_blocks",
}  # fmt: skip


@dataclass
class ModelArgs(DecoderArgs):
    head_dim: int | None = 128
    hidden_act: str = field(default="silu", kw_only=True)
    max_position_embeddings: int = 524288
    rope_theta: float = field(default=5000000.0, kw_only=True)
    partial_rotary_factor: float = 1.0
    use_qk_norm: bool = True
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
        if len(self.layer_types) != count or not set(self.layer_types) <= {"minimax_m3_sparse", "full_attention"}:
            raise ConfigError(
                "config.json: layer_types must be 'minimax_m3_sparse' or 'full_attention' for each layer."
            )
        if len(self.mlp_layer_types) != count or not set(self.mlp_layer_types) <= {"dense", "sparse"}:
            raise ConfigError("config.json: mlp_layer_types must have 'dense' or 'sparse' for each layer.")
        sizes = (self.index_n_heads, self.index_head_dim, self.index_block_size, self.index_topk_blocks)
        if min(sizes) < 1 or self.num_attention_heads % self.index_n_heads or self.index_head_dim % 2:
            raise ConfigError("config.json: the index_... sizes must be positive and fit num_attention_heads.")
        if not self.use_qk_norm:
            raise ConfigError("config.json: use_qk_norm must be true for 'minimax_m3_vl_text'.")


class Indexer(nn.Module):
    """Queries of a few heads and one key, for choosing blocks."""

    def __init__(self, args: Any):
        super().__init__()
        norm = partial(RMSNorm, args.index_head_dim, args.rms_norm_eps, offset=1.0)
        self.q_proj = Linear(args.hidden_size, args.index_n_heads * args.index_head_dim, bias=False)
        self.k_proj = Linear(args.hidden_size, args.index_head_dim, bias=False)
        self.q_norm, self.k_norm = norm(), norm()


class BlockAttention(BiasedAttention):
    """The index keys are a second state, kept in two halves."""

    def __init__(self, options: AttentionOptions, args: Any):
        super().__init__(options)
        self.indexer = Indexer(args)
        self._index_dim, self._size = args.index_head_dim, args.index_block_size
        self._blocks, self._local = args.index_topk_blocks, args.index_local_blocks

    def state_spec(self) -> StateSpec:
        half = self._index_dim // 2
        return ListSpec((super().state_spec(), KVSpec(1, half, half)))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        position = offsets(state)
        queries, keys, values, _ = self._project(x)
        queries, keys = self._place(queries, keys, position)
        index = self.indexer
        index_queries, index_keys = (
            norm(mx.unflatten(projection(x), -1, (-1, self._index_dim)).transpose(0, 2, 1, 3))
            for norm, projection in ((index.q_norm, index.q_proj), (index.k_norm, index.k_proj))
        )
        index_queries, index_keys = self._place(index_queries, index_keys, position)
        views = attend_states(part(state, 0), keys, values)
        chosen = attend_states(part(state, 1), *mx.split(index_keys, 2, axis=-1))
        rows = []
        for i, (view, keyed) in enumerate(zip(views, chosen, strict=True)):
            one = slice(None) if len(views) == 1 else slice(i, i + 1)
            start = position if isinstance(position, int) else position[i]
            rule = partial(self._best_blocks, index_queries[one], keyed)
            rows.append(self._biased(queries[one], view, start, rule))
        out = rows[0] if len(rows) == 1 else mx.concatenate(rows, axis=0)
        return self.o_proj(out.transpose(0, 2, 1, 3).flatten(2))

    def _best_blocks(
        self,
        queries: mx.array,
        keyed: KVView,
        query: mx.array,
        key: mx.array,
        seen: mx.array | None,
        view: KVView,
    ) -> mx.array | None:
        halves = [h if isinstance(h, mx.array) else h.dequantize() for h in (keyed.keys, keyed.values)]
        scores = queries.astype(mx.float32) @ mx.concatenate(halves, axis=-1).astype(mx.float32).swapaxes(-1, -2)
        if seen is not None:
            scores = mx.where(seen, scores, -mx.inf)
        # Blocks are counted from the first one held; what a limited state keeps for ever counts as block 0.
        first = key[0, view.keep] // self._size - 1
        block = mx.where(mx.arange(key.shape[1]) < view.keep, 0, key[0] // self._size - first)
        own = query // self._size - first
        count = key.shape[1] // self._size + 3
        best = mx.full((*scores.shape[:-1], count), -mx.inf).at[..., block].maximum(scores)
        back = own - mx.arange(count)[None]
        best = mx.where((back >= 0) & (back < self._local), mx.inf, best)
        if self._blocks < count:
            least = mx.sort(best, axis=-1)[..., -self._blocks :][..., :1]
            best = mx.where(best >= least, best, -mx.inf)
        kept = mx.take(best, block, axis=-1) > -mx.inf
        kept = mx.repeat(kept, self._options.num_heads // kept.shape[1], axis=1)
        return kept if seen is None else kept & seen


class ClampedMLP(GatedMLP):
    alpha, limit = 1.702, 7.0

    def __call__(self, x: mx.array) -> mx.array:
        gate, up = self.gate_proj(x), self.up_proj(x)
        return self.down_proj(clamped_swiglu(gate, up, alpha=self.alpha, limit=self.limit))


class Experts(MoE):
    correction_on_router = False


class Model(DenseModel):
    rules = (
        Drop(r"(^|\.)mtp\."),
        Rename(r"\.mlp\.(gate|experts|shared_experts)\.", r".block_sparse_moe.\1."),
        Rename(r"\.self_attn\.index_([qk])_(proj|norm)\.", r".self_attn.indexer.\1_\2."),
        Rename(r"\.gate\.e_score_correction_bias$", ".e_score_correction_bias"),
        Split(r"(.*\.(?:mlp|shared_experts))\.gate_up_proj\.weight", (r"\1.gate_proj.weight", r"\1.up_proj.weight")),
        *expert_rules("block_sparse_moe", ("w1", "w3", "w2")),
    )

    @classmethod
    def names_at(cls, args: Any, index: int) -> LayerNames:
        return LayerNames(feed_forward="mlp" if args.mlp_layer_types[index] == "dense" else "block_sparse_moe")

    @classmethod
    def mixer(cls, args: Any, index: int) -> nn.Module:
        norm = partial(RMSNorm, eps=args.rms_norm_eps, offset=1.0)
        options = cls.attention_options(args, index, qk_norm=norm)
        return (
            BlockAttention(options, args)
            if args.layer_types[index] != "full_attention"
            else cls.attention_type(options)
        )

    @classmethod
    def feed_forward(cls, args: Any, index: int) -> nn.Module:
        width, count = args.hidden_size, args.num_local_experts
        if args.mlp_layer_types[index] == "dense":
            return cls.clamped(args, args.dense_intermediate_size)
        act = partial(clamped_swiglu, alpha=args.swiglu_alpha, limit=args.swiglu_limit)
        routing = Routing(args.num_experts_per_tok, "sigmoid", scale=args.routed_scaling_factor)
        experts = SwitchGLU(width, args.intermediate_size, count, act=act)
        shared = cls.clamped(args, args.shared_intermediate_size)
        return Experts(width, count, routing, experts, correction=True, shared=shared)

    @classmethod
    def clamped(cls, args: Any, size: int) -> nn.Module:
        mlp = ClampedMLP(args.hidden_size, size)
        mlp.alpha, mlp.limit = args.swiglu_alpha, args.swiglu_limit
        return mlp

    @classmethod
    def norm(cls, args: Any) -> nn.Module:
        return RMSNorm(args.hidden_size, args.rms_norm_eps, offset=1.0)
