"""The choice of compressed entries that a run of layers reads, and what those layers share.

Entries are scored as in `indexed`. A layer may also mark the best blocks of entries; later ones choose among these
only. Source: DeepSeek-V4.1, https://huggingface.co/deepseek-ai/DeepSeek-V4.1-Flash.
"""

from dataclasses import dataclass, field, replace

import mlx.core as mx

from .compressed import CompressedOptions, finished, turned
from .indexed import Scorer, best_of, positions_of, rectified
from .linear import Linear
from .norm import RMSNorm
from .rounding import rounded_fp4
from .rows import Position, row_of

__all__ = ["EntryIndexer", "Shared", "Sharing"]


@dataclass(frozen=True)
class Sharing:
    """What a layer does for those after it.

    Attributes:
        rate: tokens in an entry; 0 for a layer that attends to its window only.
        makes, chooses: the layer makes entries; it chooses which of them are read.
        pool: blocks of `block` entries that the choosing layers after this one may choose from; 0 for all.
        pooled: this layer chooses from such blocks.
    """

    rate: int = 0
    makes: bool = False
    chooses: bool = False
    pool: int = 0
    block: int = 1
    pooled: bool = False


@dataclass(frozen=True)
class Shared:
    """What the layers of one pass share: lists with one item for all rows, or one for each where their states differ.

    Attributes:
        entries, keys: all entries so far (b, 1, T, D), and the indexer's keys (b, 1, T, d).
        read: the entries that queries may read (b, 1, S, D), and which query reads which (b, L, S) or (L, S).
        pool: the entries that are still to choose from (b, L, T), or None for all.
    """

    entries: list[mx.array]
    keys: list[mx.array]
    read: list[tuple[mx.array, mx.array]] = field(default_factory=list)
    pool: list[mx.array | None] = field(default_factory=list)


class EntryIndexer(Scorer):
    """Chooses entries by the sum of rectified products of all its heads."""

    def __init__(self, o: CompressedOptions, sharing: Sharing):
        super().__init__(o.hidden_size, o.q_rank, o.index_heads, o.index_dim)
        self._options, self._sharing = o, sharing
        if sharing.makes:
            self.k_proj = Linear(o.head_dim, o.index_dim, bias=False)
            self.k_norm = RMSNorm(o.index_dim, o.norm_eps)

    def __call__(
        self, x: mx.array, compressed: mx.array, shared: Shared, position: Position, starts: list[int]
    ) -> Shared:
        o, s = self._options, self._sharing
        pools = shared.pool or [None] * len(starts)
        done = [finished(e, start, x.shape[1], o.rate) for e, start in zip(shared.entries, starts, strict=True)]
        if all(p is None for p in pools) and all(k.shape[2] <= self._least for k in shared.keys):
            return replace(shared, read=list(zip(shared.entries, done, strict=True)), pool=pools)
        q, weights = self.weighed(x, compressed)
        q, read, marked = rounded_fp4(turned(q, o.rope, position)), [], []
        for i, keys in enumerate(shared.keys):
            row = row_of(len(starts), i)
            mask, pool = self._choose(q[row], weights[row], keys, pools[i], done[i])
            read.append(self._gathered(shared.entries[i], mask))
            marked.append(pool if s.pool else pools[i])
        return replace(shared, read=read, pool=marked)

    @property
    def _least(self) -> int:
        """The number of entries up to which there is nothing to choose."""
        s = self._sharing
        return min(self._options.index_topk, s.pool * s.block) if s.pool else self._options.index_topk

    def _choose(
        self, q: mx.array, weights: mx.array, keys: mx.array, pool: mx.array | None, done: mx.array
    ) -> tuple[mx.array, mx.array | None]:
        """Queries (b, H, L, d), weights (b, L, H) and keys (b, 1, T, d) -> masks (b, L, T): read, and the pool."""
        s, top_k, total = self._sharing, self._options.index_topk, keys.shape[2]
        masks, marks = [], []
        for some, scores in rectified(q, keys, weights):
            scores = mx.where(done[some], scores, -mx.inf)
            if s.pool and total > s.pool * s.block:
                marks.append(self._marked(scores, done[some]))
            if pool is not None and s.pooled:
                scores = mx.where(pool[:, some], scores, -mx.inf)
            possible = scores > -mx.inf
            masks.append(best_of(scores, top_k) & possible if total > top_k else possible)
        return mx.concatenate(masks, axis=1), mx.concatenate(marks, axis=1) if marks else None

    def _marked(self, scores: mx.array, done: mx.array) -> mx.array:
        """The entries (b, l, T) of the blocks with the best scores, and of each query's last block."""
        s, total = self._sharing, scores.shape[-1]
        padded = mx.pad(scores, [(0, 0), (0, 0), (0, -total % s.block)], constant_values=-mx.inf)
        best = mx.unflatten(padded, -1, (-1, s.block)).max(axis=-1)
        last = (mx.maximum(done.sum(axis=-1, keepdims=True), 1) - 1) // s.block  # (l, 1)
        best = mx.where(mx.arange(best.shape[-1]) == last, mx.inf, best)
        keep = best_of(best, s.pool) & (best > -mx.inf)
        return mx.repeat(keep, s.block, axis=-1)[..., :total]

    def _gathered(self, entries: mx.array, mask: mx.array) -> tuple[mx.array, mx.array]:
        """For a single query only the entries that it reads."""
        top_k = self._options.index_topk
        if mask.shape[1] > 1 or entries.shape[2] <= top_k:
            return entries, mask
        at = positions_of(mask, top_k)
        entries = mx.take_along_axis(entries, at[:, None, :, None], axis=2)
        return entries, mx.take_along_axis(mask, at[:, None], axis=-1)
