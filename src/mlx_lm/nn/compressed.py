"""Attention to the last tokens and to compressed entries, each of which stands for a stretch of earlier tokens.

One vector is key and value of all heads. A compressor makes an entry of every `rate` tokens; with `overlap` an entry
also hears the stretch before, and an indexer may choose which entries a query sees. Positions turn the last features
of keys, and turn them back on the output. Source: DeepSeek-V4, sections 2.3.1 and 2.3.2 of its report.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..kernels import KVView, visible
from ..state import ArraySlot, KVSpec, LayerState, ListSpec, RecurrentSpec, StateSpec, offsets, part
from .conv import after_tail
from .indexed import Scorer, best_of, rectified
from .latent import HeadLinear
from .linear import Linear
from .norm import RMSNorm
from .rope import Rope, rotate_each
from .rows import EntrySpec, Position, Views, attend_vectors, extended, halves, joined, row_of, starts_of, vectors_of

__all__ = ["CompressedAttention", "CompressedOptions", "EntryMaker", "finished", "placed", "turned"]


@dataclass(frozen=True)
class CompressedOptions:
    """Sizes of one layer.

    Attributes:
        rope: turns as many of the last features as it has dims; `back` turns them back.
        rate: tokens in an entry; 0 for a layer without entries.
        overlap: an entry hears the tokens of the entry before, too, and an indexer chooses `index_topk` of them.
        groups, out_rank: the output is compressed for each group of heads to `out_rank` features.
    """

    hidden_size: int
    num_heads: int
    head_dim: int
    q_rank: int
    window: int
    rope: Rope
    groups: int
    out_rank: int
    norm_eps: float
    rate: int = 0
    overlap: bool = False
    index_heads: int = 0
    index_dim: int = 0
    index_topk: int = 0


def turned(x: mx.array, rope: Rope, position: Position) -> mx.array:
    """x (B, H, L, D) with its last features rotated, as many as `rope` has."""
    plain, tail = mx.split(x, [x.shape[-1] - rope.dims], axis=-1)
    return mx.concatenate([plain, rope(tail, position)], axis=-1)


def placed(entries: mx.array, first: int, o: CompressedOptions) -> mx.array:
    """Entries (b, 1, n, d) from number `first` on, turned by the position of each one's first token."""
    if o.rate == 1 or not entries.shape[2]:
        return turned(entries, o.rope, first) if entries.shape[2] else entries
    where = (mx.arange(entries.shape[2]) + first) * o.rate
    return rotate_each(lambda x, position: turned(x, o.rope, position), entries, where)


class EntryMaker(nn.Module):
    """x (B, L, D) -> for each item the entries that these tokens complete (b, 1, n, head_dim), not yet turned.

    An entry is the sum of its tokens' values, by weights that sum to 1 for each feature.
    """

    kept_dtype: mx.Dtype | None = mx.float32  # of what tokens gave; None is the model's

    def __init__(self, o: CompressedOptions, head_dim: int, *, span: int = 1, weighted: bool = True):
        super().__init__()
        self._options, self._dim, self._width, self._kept = o, head_dim, span * head_dim, span * o.rate - 1
        self.kv_proj = Linear(o.hidden_size, self._width, bias=False)
        if weighted:
            self.gate_proj = Linear(o.hidden_size, self._width, bias=False)
        self.kv_norm = RMSNorm(head_dim, o.norm_eps)

    def state_spec(self) -> StateSpec:
        """What the tokens of an unfinished entry gave."""
        return RecurrentSpec((ArraySlot((self._kept, 2 * self._width), self.kept_dtype),) if self._kept else ())

    def __call__(self, x: mx.array, tail: LayerState, starts: list[int]) -> list[mx.array]:
        values = self.kv_proj(x)
        weights = self.gate_proj(x) if "gate_proj" in self else mx.zeros_like(values)
        raw = mx.concatenate([values, weights], axis=-1).astype(self.kept_dtype or x.dtype)
        raw = after_tail(raw, self._kept, tail)
        return [self._made(raw[row_of(len(starts), i)], start, x.dtype) for i, start in enumerate(starts)]

    def _made(self, raw: mx.array, start: int, dtype: mx.Dtype) -> mx.array:
        """Entries from what tokens gave; raw begins `kept` tokens before `start`."""
        rate, first = self._options.rate, start // self._options.rate
        count = (start + raw.shape[1] - self._kept) // rate - first
        if count < 1:
            return mx.zeros((raw.shape[0], 1, 0, self._dim), dtype)
        values, weights = self._stretches(raw, first * rate - start + self._kept, count, first)
        weights = mx.softmax(weights.astype(mx.float32), axis=2).astype(values.dtype)
        return self.kv_norm((values * weights).sum(axis=2).astype(dtype))[:, None]

    def _stretches(self, raw: mx.array, at: int, count: int, first: int) -> tuple[mx.array, mx.array]:
        """Values and weights (b, n, tokens, head_dim) of entries from number `first` on; its own tokens begin `at`."""
        rate = self._options.rate
        values, weights = mx.split(mx.unflatten(raw[:, at : at + count * rate], 1, (count, rate)), 2, axis=-1)
        return values, weights


class Compressor(EntryMaker):
    """Weights have a bias for each place in a stretch, and entries may hear the stretch before."""

    kept_dtype = None

    def __init__(self, o: CompressedOptions, head_dim: int):
        super().__init__(o, head_dim, span=2 if o.overlap else 1)
        self.position_bias = mx.zeros((o.rate, self._width))

    def state_specs(self) -> tuple[StateSpec, StateSpec]:
        """The entries, in two halves, and what the last tokens gave."""
        return EntrySpec(1, *halves(self._dim), rate=self._options.rate), self.state_spec()

    def so_far(self, x: mx.array, entries: LayerState, tail: LayerState, starts: list[int]) -> list[mx.array]:
        """All entries, turned, with those that these tokens complete."""
        o = self._options
        made = (placed(new, start // o.rate, o) for new, start in zip(self(x, tail, starts), starts, strict=True))
        return extended(entries, list(made))

    def _stretches(self, raw: mx.array, at: int, count: int, first: int) -> tuple[mx.array, mx.array]:
        values, weights = super()._stretches(raw, at, count, first)
        weights, dim = weights + self.position_bias, self._dim
        if not self._options.overlap:
            return values, weights
        values_before, weights_before = super()._stretches(raw, at - self._options.rate, count, first)
        # Nothing is before the first entry.
        fresh = mx.arange(first, first + count)[:, None, None] == 0
        weights_before = mx.where(fresh, -mx.inf, weights_before + self.position_bias)
        parts = (values_before, values), (weights_before, weights)
        values, weights = (mx.concatenate([one[..., :dim], two[..., dim:]], axis=2) for one, two in parts)
        return values, weights


class EntryIndexer(Scorer):
    """Chooses entries by the sum of rectified products of all its heads with entries of its own."""

    def __init__(self, o: CompressedOptions):
        super().__init__(o.hidden_size, o.q_rank, o.index_heads, o.index_dim)
        self._options = o
        self.compressor = Compressor(o, o.index_dim)

    def chosen(
        self, x: mx.array, compressed: mx.array, position: Position, own: list[mx.array], masks: list[mx.array]
    ) -> list[mx.array]:
        """Of the entries that each query may see by `masks` (L, T) those that it reads, (b, L, T) or (L, T)."""
        o, read = self._options, []
        q, weights = self.weighed(x, compressed)
        q = turned(q, o.rope, position)
        for i, (keys, mask) in enumerate(zip(own, masks, strict=True)):
            if keys.shape[2] > o.index_topk:
                row = row_of(len(own), i)
                scores = joined([part for _, part in rectified(q[row], keys, weights[row])], axis=1)
                mask = mask & best_of(mx.where(mask, scores, -mx.inf), o.index_topk)
            read.append(mask)
        return read


class CompressedAttention(nn.Module):
    """x (B, L, D) -> (B, L, D)."""

    def __init__(self, options: CompressedOptions, back: Rope):
        super().__init__()
        o = options
        self._options, self._back = o, back
        self.q_a_proj = Linear(o.hidden_size, o.q_rank, bias=False)
        self.q_a_norm = RMSNorm(o.q_rank, o.norm_eps)
        self.q_b_proj = Linear(o.q_rank, o.num_heads * o.head_dim, bias=False)
        self.kv_proj = Linear(o.hidden_size, o.head_dim, bias=False)
        self.kv_norm = RMSNorm(o.head_dim, o.norm_eps)
        self.o_a_proj = HeadLinear(o.num_heads * o.head_dim // o.groups, o.out_rank, o.groups)
        self.o_b_proj = Linear(o.groups * o.out_rank, o.hidden_size, bias=False)
        self.sinks = mx.zeros((o.num_heads,))
        if o.rate:
            self.compressor = Compressor(o, o.head_dim)
        if o.overlap:
            self.indexer = EntryIndexer(o)

    def state_spec(self) -> StateSpec:
        """The window's keys in two halves; entries and unfinished stretches, the indexer's likewise."""
        o = self._options
        parts: tuple[StateSpec, ...] = (KVSpec(1, *halves(o.head_dim), o.window),)
        if o.rate:
            parts += self.compressor.state_specs()
        if o.overlap:
            parts += self.indexer.compressor.state_specs()
        return ListSpec(parts)

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        o, near = self._options, part(state, 0)
        position, starts = offsets(near), starts_of(near)
        compressed, q, views = self._begun(x, near, position)
        if not o.rate:
            return self._out(self._near(q, views), position)
        entries = self.compressor.so_far(x, part(state, 1), part(state, 2), starts)
        masks = [finished(one, start, x.shape[1], o.rate) for one, start in zip(entries, starts, strict=True)]
        if o.overlap:
            own = self.indexer.compressor.so_far(x, part(state, 3), part(state, 4), starts)
            masks = self.indexer.chosen(x, compressed, position, own, masks)
        return self._out(self._read(q, views, zip(entries, masks, strict=True)), position)

    def _begun(self, x: mx.array, near: LayerState, position: Position) -> tuple[mx.array, mx.array, Views]:
        """The compressed queries (B, L, R), those of the heads (B, H, L, D), and the window's keys."""
        o = self._options
        compressed = self.q_a_norm(self.q_a_proj(x))
        q = self._queries(mx.unflatten(self.q_b_proj(compressed), -1, (o.num_heads, -1)).transpose(0, 2, 1, 3))
        keys = self._kept(turned(self.kv_norm(self.kv_proj(x))[:, None], o.rope, position))
        return compressed, turned(q, o.rope, position), attend_vectors(near, keys, o.window)

    def _queries(self, q: mx.array) -> mx.array:
        """Queries of the heads before they are turned."""
        return kernels.rms_norm(q, None, self._options.norm_eps)

    def _kept(self, keys: mx.array) -> mx.array:
        """Keys as they are kept."""
        return keys

    def _out(self, heads: mx.array, position: Position) -> mx.array:
        """What the heads found (B, H, L, head_dim), turned back and projected: (B, L, D)."""
        batch, _, length, _ = heads.shape
        heads = turned(heads, self._back, position).transpose(0, 2, 1, 3)  # (B, L, H, D)
        groups = heads.reshape(batch, length, self._options.groups, -1).transpose(0, 2, 1, 3)
        return self.o_b_proj(self.o_a_proj(groups).transpose(0, 2, 1, 3).flatten(2))

    def _near(self, q: mx.array, views: Views) -> mx.array:
        both = [vectors_of(view).astype(q.dtype) for view in views]
        views = tuple(KVView(w, w, v.window, v.keep) for w, v in zip(both, views, strict=True))
        return kernels.attention(q, views, scale=self._options.head_dim**-0.5, sinks=self.sinks)

    def _read(self, q: mx.array, views: Views, read: Iterable[tuple[mx.array, mx.array]]) -> mx.array:
        """Attention to the window and to the entries (b, 1, T, D) that masks (b, L, T) or (L, T) allow, by item."""
        rows = []
        for i, (view, (entries, mask)) in enumerate(zip(views, read, strict=True)):
            near, length = vectors_of(view).astype(q.dtype), q.shape[2]
            seen = visible(length, near.shape[2], view.window, view.keep)
            seen = mx.array(True) if seen is None else seen
            seen = mx.broadcast_to(seen, (*mask.shape[:-1], near.shape[2]))
            both = mx.concatenate([seen, mask], axis=-1)[..., None, :, :]
            keys = mx.concatenate([near, entries.astype(q.dtype)], axis=2)
            options = {"scale": self._options.head_dim**-0.5, "sinks": self.sinks, "mask": both}
            rows.append(kernels.attention(q[row_of(len(views), i)], (KVView(keys, keys),), **options))
        return joined(rows)


def finished(entries: mx.array, start: int, length: int, rate: int) -> mx.array:
    """Which entries (b, 1, T, D) were complete at each position: (L, T)."""
    ends = (mx.arange(start, start + length)[:, None] + 1) // rate
    return mx.arange(entries.shape[2])[None] < ends
