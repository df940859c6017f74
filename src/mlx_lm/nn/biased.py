"""Attention whose scores depend on positions themselves: a bias by distance, or a rule of what is seen.

The positions of the keys held follow from the first query's position: a state holds the latest tokens, and possibly
the first few. Source of ALiBi: https://arxiv.org/abs/2108.12409.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from .. import kernels
from ..kernels import KVView, visible
from ..state import KVSpec, StateSpec
from .attention import Attention, AttentionOptions

__all__ = ["AlibiAttention", "BiasedAttention", "alibi_slopes"]

_Rule = Callable[[mx.array, mx.array, mx.array | None, KVView], mx.array | None]


@dataclass(frozen=True)
class _InOrder(KVSpec):
    """Keys and values whose positions must be known: single tokens cannot be dropped."""

    evictable = False


class BiasedAttention(Attention):
    """Subclasses say what is seen, and what is added to the scores."""

    def state_spec(self) -> StateSpec:
        o = self._options
        return _InOrder(o.num_kv_heads, o.head_dim, o.head_dim, o.window)

    def rule(self, query: mx.array, key: mx.array, seen: mx.array | None, view: KVView) -> mx.array | None:
        """The mask for positions query (L, 1) and key (1, T), of which `seen` (L, T) come before: bool or addends."""
        raise NotImplementedError

    @staticmethod
    def key_positions(view: KVView, end: int | mx.array) -> mx.array:
        """Positions (1, T) of the keys that a view holds when `end` tokens have been seen."""
        held = view.keys.shape[2]
        index = mx.arange(held)[None]
        return mx.where(index < view.keep, index, index + (end - held)) if view.keep else index + (end - held)

    def _attend(self, queries: mx.array, views: tuple[KVView, ...], position: int | mx.array) -> mx.array:
        if len(views) == 1:
            return self._biased(queries, views[0], position, self.rule)
        starts = [position if isinstance(position, int) else position[i] for i in range(len(views))]
        rows = [self._biased(queries[i : i + 1], v, starts[i], self.rule) for i, v in enumerate(views)]
        return mx.concatenate(rows, axis=0)

    def _biased(self, queries: mx.array, view: KVView, start: int | mx.array, rule: _Rule) -> mx.array:
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
