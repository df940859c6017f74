"""Latent attention to the best keys only, chosen by a small indexer.

All of the indexer's heads choose together: a query keeps the `top_k` keys with the best sums. While no more than
`top_k` tokens are seen this is plain latent attention. Source: DeepSeek-V3.2, https://arxiv.org/abs/2512.02556.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..kernels import KVView, visible
from ..state import LayerState, ListSpec, StateSpec, attend_states, offsets, part
from .latent import LatentAttention, LatentOptions
from .linear import Linear
from .norm import LayerNorm
from .rope import Rope
from .rows import OrderedSpec, Position, Views, attend_vectors, by_view, halves, joined, vectors_of

__all__ = ["Chosen", "IndexOptions", "IndexedLatentAttention", "Scorer", "best_of", "positions_of", "rectified"]

_SCORE_BYTES = 256 << 20  # scores of all the indexer's heads at a time

Chosen: TypeAlias = Sequence[mx.array | None]
"""What each view's queries look at: None for all they see; for one query a row the positions in the view (b, k),
for several a mask (b, 1, L, T)."""


@dataclass(frozen=True)
class IndexOptions:
    """Sizes of the choice.

    Attributes:
        num_heads, head_dim: of the index queries; the one key has the same size, which is even.
        top_k: keys that a query keeps.
        rope: rotates features of queries and keys.
        norm_eps: of the keys' norm.
    """

    num_heads: int
    head_dim: int
    top_k: int
    rope: Rope | None
    norm_eps: float = 1e-6


class Scorer(nn.Module):
    """Scores of keys, from the layer's input (B, L, D) and its compressed queries (B, L, R)."""

    queries_name = "q_b_proj"

    def __init__(self, hidden_size: int, q_rank: int, heads: int, dim: int):
        super().__init__()
        self._heads, self._factor = heads, (heads * dim) ** -0.5
        self[self.queries_name] = Linear(q_rank, heads * dim, bias=False)
        self.weights_proj = Linear(hidden_size, heads, bias=False)

    def weighed(self, x: mx.array, compressed: mx.array) -> tuple[mx.array, mx.array]:
        """Queries (B, H, L, d), not yet rotated, and the heads' weights (B, L, H), float32."""
        queries = mx.unflatten(self[self.queries_name](compressed), -1, (self._heads, -1)).transpose(0, 2, 1, 3)
        return queries, self.weights_proj(x).astype(mx.float32) * self._factor


class Indexer(Scorer):
    """Chooses keys."""

    queries_name = "wq_b"

    def __init__(self, hidden_size: int, q_rank: int, options: IndexOptions):
        super().__init__(hidden_size, q_rank, options.num_heads, options.head_dim)
        self._options = options
        self.wk = Linear(hidden_size, options.head_dim, bias=False)
        self.k_norm = LayerNorm(options.head_dim, options.norm_eps)

    def state_spec(self) -> StateSpec:
        """The index keys, kept in two halves."""
        return OrderedSpec(1, *halves(self._options.head_dim))

    def __call__(self, x: mx.array, compressed: mx.array, state: LayerState) -> Chosen:
        o = self._options
        position = offsets(state)
        keys = self.k_norm(self.wk(x))[:, None]
        views = attend_vectors(state, keys if o.rope is None else o.rope(keys, position))
        if all(view.keys.shape[2] <= o.top_k for view in views):
            return [None] * len(views)
        queries, weights = self.weighed(x, compressed)
        queries = queries if o.rope is None else o.rope(queries, position)
        return [self._choose(*each) for each in by_view(views, position, queries, weights)]

    def _choose(self, view: KVView, start: Position, queries: mx.array, weights: mx.array) -> mx.array | None:
        """Queries (b, H, L, d) and weights (b, L, H) over one view."""
        top_k, length, total = self._options.top_k, queries.shape[2], view.keys.shape[2]
        if total <= top_k:
            return None
        seen = visible(length, total, view.window, view.keep)
        masks = []
        for some, scores in rectified(queries, vectors_of(view), weights):
            scores = scores if seen is None else mx.where(seen[some], scores, -mx.inf)
            mask = best_of(scores, top_k)
            if length == 1 and seen is None:
                return positions_of(mask, top_k)
            masks.append(mask if seen is None else mask & seen[some])
        return joined(masks, axis=1)[:, None]


class IndexedLatentAttention(LatentAttention):
    """x (B, L, D) -> (B, L, D). With `index` None the layer takes over what a layer before it has chosen."""

    def __init__(self, options: LatentOptions, index: IndexOptions | None):
        super().__init__(options)
        assert options.q_rank is not None, "the indexer reads the compressed queries"
        self._chooses = index is not None
        if index is not None:
            self.indexer = Indexer(options.hidden_size, options.q_rank, index)

    def state_spec(self) -> StateSpec:
        o = self._options
        latents = OrderedSpec(1, o.kv_rank, o.rope_dim, o.window, latent=True)
        return ListSpec((latents, self.indexer.state_spec())) if self._chooses else latents

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        return self.pass_on(x, state, None)[0]

    def pass_on(self, x: mx.array, state: LayerState, chosen: Chosen | None) -> tuple[mx.array, Chosen | None]:
        """The layer's output, and what its queries looked at; `chosen` is for layers that do not choose."""
        low = self.q_a_proj(x)
        compressed = self.q_a_layernorm(low)
        latent_state = part(state, 0) if self._chooses else state
        q, gate = self._queries(x, low, compressed)
        queries, rope_queries, latents, rope_keys = self._parts(q, x, offsets(latent_state))
        views = attend_states(latent_state, latents, rope_keys, self._options.window)
        if self._chooses:
            chosen = self.indexer(x, compressed, part(state, 1))
        return self._out(self._attend_chosen(queries, rope_queries, views, chosen), gate), chosen

    def _queries(self, x: mx.array, low: mx.array, compressed: mx.array) -> tuple[mx.array, mx.array | None]:
        """Queries of all heads (B, L, H*(nope+rope)) and a gate on the output (B, L, H*value), or None."""
        return self.q_b_proj(compressed), self._gate(x)

    def _attend_chosen(
        self, queries: mx.array, rope_queries: mx.array, views: Views, chosen: Chosen | None
    ) -> mx.array:
        if chosen is None or all(c is None for c in chosen):
            return self._attend(queries, rope_queries, views)
        each = zip(by_view(views, 0, queries, rope_queries), chosen, strict=True)
        return joined([self._attend_view(view, keep, *own) for (view, _, *own), keep in each])

    def _attend_view(self, view: KVView, keep: mx.array | None, queries: mx.array, rope_queries: mx.array) -> mx.array:
        if keep is None:
            return self._attend(queries, rope_queries, (view,))
        latents, rope_keys = (s.astype(queries.dtype) for s in view.dense())
        if keep.ndim == 2:  # a single query: only the chosen keys are read
            at = keep[:, None, :, None]
            latents, rope_keys = (mx.take_along_axis(s, at, axis=2) for s in (latents, rope_keys))
            return self._attend(queries, rope_queries, (KVView(latents, rope_keys),))
        absorbed = self._absorbed(queries.shape[2])
        if absorbed is None:
            return self._expanded_row(mx.concatenate([queries, rope_queries], axis=-1), view, keep)
        whole = mx.concatenate([absorbed[0].to_latent(queries), rope_queries], axis=-1)
        shared = KVView(mx.concatenate([latents, rope_keys], axis=-1), latents)
        out = kernels.attention(whole, (shared,), scale=self._options.scale, sinks=self.get("sinks"), mask=keep)
        return absorbed[1].from_latent(out)


def rectified(queries: mx.array, keys: mx.array, weights: mx.array) -> Iterator[tuple[slice, mx.array]]:
    """Scores (b, l, T), some queries at a time: sums by `weights` (b, L, H) of all heads' rectified products.

    Queries are (b, H, L, d) and keys (b, 1, T, d); the slice says which queries they are.
    """
    across = keys.astype(mx.float32).swapaxes(-1, -2)
    step = max(1, _SCORE_BYTES // max(1, 4 * keys.shape[2] * queries.shape[0] * queries.shape[1]))
    for start in range(0, queries.shape[2], step):
        some = slice(start, start + step)
        scores = mx.maximum(queries[:, :, some].astype(mx.float32) @ across, 0)  # (b, H, l, T)
        yield some, (weights[:, some].transpose(0, 2, 1)[..., None] * scores).sum(axis=1)


def positions_of(mask: mx.array, count: int) -> mx.array:
    """The positions (b, count) that a mask (b, 1, T) of a single query has, in order."""
    return mx.stop_gradient(mx.sort(mx.argpartition(~mask[:, 0], kth=count - 1, axis=-1)[:, :count], axis=-1))


def best_of(scores: mx.array, count: int) -> mx.array:
    """A mask of the `count` best of the last axis; of equal ones the later.

    Sums of rectified scores are often exactly 0, and published code leaves it to its library which of equal ones
    wins: no order agrees with it everywhere. A fixed one chooses alike whether a prompt comes whole or in pieces.
    """
    at = scores.shape[-1] - count
    least = mx.partition(scores, kth=at, axis=-1)[..., at : at + 1]
    above, equal = scores > least, scores == least
    room = count - above.sum(axis=-1, keepdims=True)
    return above | (equal & (mx.cumsum(equal.astype(mx.int32), axis=-1, reverse=True) <= room))
