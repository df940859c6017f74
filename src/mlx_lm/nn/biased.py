"""Attention whose scores depend on positions themselves: a bias by distance, or a rule of what is seen.

The positions of the keys held follow from the first query's position: a state holds the latest tokens, and possibly
the first few. Source of ALiBi: https://arxiv.org/abs/2108.12409.
"""

import math
from collections.abc import Callable

import mlx.core as mx

from .. import kernels
from ..kernels import KVView, visible
from ..state import StateSpec
from .attention import Attention, AttentionOptions
from .rows import OrderedSpec, Position, Views, by_view, joined

__all__ = ["AlibiAttention", "BiasedAttention", "alibi_slopes"]

_Rule = Callable[[mx.array, mx.array, mx.array | None, KVView], mx.array | None]


class BiasedAttention(Attention):
    """Subclasses say what is seen, and what is added to the scores."""

    def state_spec(self) -> StateSpec:
        o = self._options
        return OrderedSpec(o.num_kv_heads, o.head_dim, o.head_dim, o.window)

    def rule(self, query: mx.array, key: mx.array, seen: mx.array | None, view: KVView) -> mx.array | None:
        """The mask for positions query (L, 1) and key (1, T), of which `seen` (L, T) come before: bool or addends."""
        raise NotImplementedError

    @staticmethod
    def key_positions(view: KVView, end: Position) -> mx.array:
        """Positions (1, T) of the keys that a view holds when `end` tokens have been seen."""
        held = view.keys.shape[2]
        index = mx.arange(held)[None]
        return mx.where(index < view.keep, index, index + (end - held)) if view.keep else index + (end - held)

    def _attend(self, queries: mx.array, views: Views, position: Position) -> mx.array:
        return joined([self._biased(q, view, start, self.rule) for view, start, q in by_view(views, position, queries)])

    def _biased(self, queries: mx.array, view: KVView, start: Position, rule: _Rule) -> mx.array:
        """Attention of queries (b, H, L, D) from position `start` on over one view."""
        length, held = queries.shape[2], view.keys.shape[2]
        key = self.key_positions(view, start + length)
        seen = visible(length, held, view.window, view.keep)
        mask = rule(mx.arange(length)[:, None] + start, key, seen, view)
        mask = mask if mask is None or mask.dtype == mx.bool_ else mask.astype(queries.dtype)
        options = {"scale": self.scale, "softcap": self._options.softcap, "sinks": self.get("sinks")}
        return kernels.attention(queries, (view,), **options, mask=mask)


class AlibiAttention(BiasedAttention):
    """Scores fall with distance, for each head by its slope; None are the usual `alibi_slopes`."""

    def __init__(self, options: AttentionOptions, slopes: tuple[float, ...] | None = None):
        super().__init__(options)
        self._slopes = alibi_slopes(options.num_heads) if slopes is None else slopes

    def rule(self, query: mx.array, key: mx.array, seen: mx.array | None, view: KVView) -> mx.array | None:
        bias = mx.array(self._slopes)[:, None, None] * (key - query)
        return (bias if seen is None else mx.where(seen, bias, -mx.inf))[None]


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """A slope for each head: 2 ** (-8 * i / n) for n heads, a power of two; other counts take every second of 2n."""
    n = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * i / n) for i in range(1, n + 1)]
    between = [2 ** (-8 * i / (2 * n)) for i in range(1, 2 * n + 1, 2)]
    return tuple((slopes + between)[:num_heads])
