"""Attention to the best blocks of keys only, chosen by a small indexer.

For each of the indexer's heads a query keeps the blocks that hold the keys with the best scores, and its own.
Source: MiniMax-M3, https://huggingface.co/MiniMaxAI.
"""

from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from ..kernels import KVView
from ..state import KVSpec, LayerState, ListSpec, StateSpec, attend_states, offsets, part
from .attention import AttentionOptions
from .biased import BiasedAttention
from .linear import Linear
from .norm import RMSNorm

__all__ = ["BlockAttention", "BlockOptions"]


@dataclass(frozen=True)
class BlockOptions:
    """Sizes of the choice.

    Attributes:
        index_heads: each chooses for an equal share of the query heads.
        index_dim: size of the index queries and keys, even.
        size: keys in a block.
        top_k: blocks that a query keeps.
        local: how many of them are its own and those just before.
        eps: of the norms.
    """

    index_heads: int
    index_dim: int
    size: int
    top_k: int
    local: int
    eps: float


class Indexer(nn.Module):
    """Queries of a few heads and one key, for choosing blocks."""

    def __init__(self, hidden_size: int, options: BlockOptions):
        super().__init__()
        norm = partial(RMSNorm, options.index_dim, options.eps, offset=1.0)
        self.q_proj = Linear(hidden_size, options.index_heads * options.index_dim, bias=False)
        self.k_proj = Linear(hidden_size, options.index_dim, bias=False)
        self.q_norm, self.k_norm = norm(), norm()


class BlockAttention(BiasedAttention):
    """The index keys are a second state, kept in two halves."""

    def __init__(self, options: AttentionOptions, blocks: BlockOptions):
        super().__init__(options)
        self.indexer = Indexer(options.hidden_size, blocks)
        self._index_dim, self._size = blocks.index_dim, blocks.size
        self._blocks, self._local = blocks.top_k, blocks.local

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
        first, second = mx.split(index_keys, 2, axis=-1)
        chosen = attend_states(part(state, 1), first, second)
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
