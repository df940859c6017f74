"""Attention to the best blocks of keys only, chosen by a small indexer.

For each of the indexer's heads a query keeps the blocks that hold the keys with the best scores, and its own
(MiniMax-M3, https://huggingface.co/MiniMaxAI); or all heads together choose among blocks that have one key each, the
mean of their tokens' keys (Qwen4-Exp, https://huggingface.co/Qwen).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..kernels import KVView
from ..state import KVSpec, LayerState, ListSpec, StateSpec, attend_states, offsets, part
from .attention import AttentionOptions
from .biased import BiasedAttention
from .indexed import best_of
from .linear import Linear
from .norm import RMSNorm
from .rope import rotate_each
from .rows import Position, attend_vectors, by_view, halves, joined, vectors_of

__all__ = ["BlockAttention", "BlockOptions", "PooledBlockAttention"]


@dataclass(frozen=True)
class BlockOptions:
    """Sizes of the choice.

    Attributes:
        index_heads: each chooses for an equal share of the query heads, or all together for all.
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


class JointIndexer(nn.Module):
    """The same with one projection for queries and key."""

    def __init__(self, hidden_size: int, options: BlockOptions):
        super().__init__()
        norm = partial(RMSNorm, options.index_dim, options.eps, offset=1.0)
        self.index_qk_proj = Linear(hidden_size, (options.index_heads + 1) * options.index_dim, bias=False)
        self.q_layernorm, self.k_layernorm = norm(), norm()


class BlockAttention(BiasedAttention):
    """The index keys are a second state, kept in two halves."""

    indexer_type: type[Any] = Indexer

    def __init__(self, options: AttentionOptions, blocks: BlockOptions):
        super().__init__(options)
        self.indexer = self.indexer_type(options.hidden_size, blocks)
        self._choice = blocks

    def state_spec(self) -> StateSpec:
        return ListSpec((super().state_spec(), KVSpec(1, *halves(self._choice.index_dim))))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        position = offsets(state)
        queries, keys, values, gate = self._project(x)
        queries, keys = self._place(queries, keys, position)
        index_queries, index_keys = self._index(x, position)
        views = attend_states(part(state, 0), keys, values)
        each = by_view(views, position, queries, index_queries)
        rows = []
        for keyed, (view, start, own, index) in zip(attend_vectors(part(state, 1), index_keys), each, strict=True):
            rows.append(self._biased(own, view, start, partial(self._best_blocks, index, keyed)))
        out = joined(rows).transpose(0, 2, 1, 3).flatten(2)
        return self.o_proj(out if gate is None else self._gated(out, gate))

    def _index(self, x: mx.array, position: Position) -> tuple[mx.array, mx.array]:
        """The indexer's queries (B, Hi, L, d) and keys (B, 1, L, d)."""
        index = self.indexer
        queries, keys = (
            norm(mx.unflatten(projection(x), -1, (-1, self._choice.index_dim)).transpose(0, 2, 1, 3))
            for norm, projection in ((index.q_norm, index.q_proj), (index.k_norm, index.k_proj))
        )
        return self._place(queries, keys, position)

    def _best_blocks(
        self, queries: mx.array, keyed: KVView, query: mx.array, key: mx.array, seen: mx.array | None, view: KVView
    ) -> mx.array | None:
        scores = queries.astype(mx.float32) @ vectors_of(keyed).astype(mx.float32).swapaxes(-1, -2)
        if seen is not None:
            scores = mx.where(seen, scores, -mx.inf)
        # Blocks are counted from the first one held; what a limited state keeps for ever counts as block 0.
        first = key[0, view.keep] // self._choice.size - 1
        block = mx.where(mx.arange(key.shape[1]) < view.keep, 0, key[0] // self._choice.size - first)
        own = query // self._choice.size - first
        count = key.shape[1] // self._choice.size + 3
        best = mx.full((*scores.shape[:-1], count), -mx.inf).at[..., block].maximum(scores)
        back = own - mx.arange(count)[None]
        best = mx.where((back >= 0) & (back < self._choice.local), mx.inf, best)
        if self._choice.top_k < count:
            least = mx.sort(best, axis=-1)[..., -self._choice.top_k :][..., :1]
            best = mx.where(best >= least, best, -mx.inf)
        kept = mx.take(best, block, axis=-1) > -mx.inf
        kept = mx.repeat(kept, self._options.num_heads // kept.shape[1], axis=1)
        return kept if seen is None else kept & seen


class PooledBlockAttention(BlockAttention):
    """Chooses among whole blocks by the heads' rectified products with a block's mean key, summed.

    The tokens after a query's last whole block are always seen. Blocks are counted from the first token held.
    """

    indexer_type = JointIndexer

    def _index(self, x: mx.array, position: Position) -> tuple[mx.array, mx.array]:
        """Placed queries, and keys that are neither normalized nor placed: their means will be."""
        both = mx.unflatten(self.indexer.index_qk_proj(x), -1, (-1, self._choice.index_dim)).transpose(0, 2, 1, 3)
        queries = self.indexer.q_layernorm(both[:, :-1])
        rope = self._options.rope
        return queries if rope is None else rope(queries, position), both[:, -1:]

    def _best_blocks(
        self, queries: mx.array, keyed: KVView, query: mx.array, key: mx.array, seen: mx.array | None, view: KVView
    ) -> mx.array | None:
        size, total = self._choice.size, key.shape[1]
        count = total // size
        if count <= self._choice.top_k:
            return seen
        means = self._means(vectors_of(keyed)[:, 0, : count * size], key[0, : count * size : size])
        scores = mx.maximum(queries.astype(mx.float32) @ means.astype(mx.float32).swapaxes(-1, -2), 0).sum(axis=1)
        if seen is None:  # a single query, at the end
            return self._tokens(best_of(scores, self._choice.top_k), total)
        complete = seen[:, size - 1 : count * size : size]
        best = best_of(mx.where(complete, scores, -mx.inf), self._choice.top_k)
        return self._tokens(best | ~complete, total) & seen

    def _tokens(self, blocks: mx.array, total: int) -> mx.array:
        """Tokens (b, 1, L, total) of the chosen blocks (b, L, n), and those after the last block."""
        chosen = mx.repeat(blocks, self._choice.size, axis=-1)
        return mx.pad(chosen, [(0, 0), (0, 0), (0, total - chosen.shape[-1])], constant_values=True)[:, None]

    def _means(self, keys: mx.array, starts: mx.array) -> mx.array:
        """Keys (b, n*size, d) of blocks whose first tokens stand at `starts` (n,) -> (b, 1, n, d)."""
        means = mx.unflatten(keys.astype(mx.float32), 1, (-1, self._choice.size)).mean(axis=2).astype(keys.dtype)
        means, rope = self.indexer.k_layernorm(means)[:, None], self._options.rope
        return means if rope is None else rotate_each(rope, means, starts)
