"""Attention to the last tokens and to compressed entries, each of which stands for a stretch of earlier tokens.

One vector is key and value of all heads. A compressor makes an entry of every `rate` tokens; with `overlap` an entry
also hears the stretch before, and an indexer may choose which entries a query sees. Positions turn the last features
of keys, and turn them back on the output. Source: DeepSeek-V4, sections 2.3.1 and 2.3.2 of its report.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..kernels import KVView, visible
from ..state import (
    PLAIN_KV,
    ArraySlot,
    AttentionState,
    KVOptions,
    KVSpec,
    LayerState,
    ListSpec,
    RecurrentSpec,
    State,
    StateSpec,
    attend_states,
    offsets,
    part,
)
from .conv import after_tail
from .indexed import best_of, rectified
from .latent import HeadLinear
from .linear import Linear
from .norm import RMSNorm
from .rope import Rope

__all__ = [
    "CompressedAttention", "CompressedOptions", "EntrySpec", "extended", "finished", "row_of", "turned", "whole",
]  # fmt: skip


@dataclass(frozen=True)
class CompressedOptions:
    """Sizes of one layer.

    Attributes:
        rope: turns the last `rope_dim` features; `back` turns them back.
        rate: tokens in an entry; 0 for a layer without entries.
        overlap: an entry hears the tokens of the entry before, too, and an indexer chooses `index_topk` of them.
        groups, out_rank: the output is compressed for each group of heads to `out_rank` features.
    """

    hidden_size: int
    num_heads: int
    head_dim: int
    rope_dim: int
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


@dataclass(frozen=True)
class EntrySpec(KVSpec):
    """One entry for `rate` tokens."""

    rate: int = 1
    evictable = False

    @property
    def trimmable(self) -> bool:  # type: ignore[override]
        return False

    def create(self, options: KVOptions = PLAIN_KV) -> AttentionState:
        return super().create(replace(options, max_size=None))

    def bytes_per_token(self, dtype: mx.Dtype, options: KVOptions = PLAIN_KV) -> float:
        return super().bytes_per_token(dtype, options) / self.rate


def turned(x: mx.array, rope: Rope, dims: int, position: int | mx.array) -> mx.array:
    """x (B, H, L, D) with its last `dims` features rotated."""
    plain, tail = mx.split(x, [x.shape[-1] - dims], axis=-1)
    return mx.concatenate([plain, rope(tail, position)], axis=-1)


class Compressor(nn.Module):
    """x (B, L, D) -> for each row all entries so far, (1, 1, T, head_dim)."""

    def __init__(self, hidden_size: int, head_dim: int, o: CompressedOptions):
        super().__init__()
        self._dim, self._rate, self._rope, self._rope_dim = head_dim, o.rate, o.rope, o.rope_dim
        width = head_dim * (2 if o.overlap else 1)
        self._overlap = o.overlap
        self.kv_proj = Linear(hidden_size, width, bias=False)
        self.gate_proj = Linear(hidden_size, width, bias=False)
        self.position_bias = mx.zeros((o.rate, width))
        self.kv_norm = RMSNorm(head_dim, o.norm_eps)

    @property
    def _kept(self) -> int:
        return (2 if self._overlap else 1) * self._rate - 1

    def state_specs(self) -> tuple[StateSpec, StateSpec]:
        """The entries, in two halves, and what the last tokens gave."""
        half = self._dim // 2
        width = 2 * self.position_bias.shape[-1]
        return EntrySpec(1, half, self._dim - half, rate=self._rate), RecurrentSpec((ArraySlot((self._kept, width)),))

    def __call__(self, x: mx.array, entries: LayerState, tail: LayerState, starts: list[int]) -> list[mx.array]:
        raw = mx.concatenate([self.kv_proj(x), self.gate_proj(x)], axis=-1)
        raw = after_tail(raw, self._kept, tail)
        count = 1 if entries is None or isinstance(entries, State) else len(entries)
        held = extended(entries, [self._made(raw[row_of(count, i)], starts[i]) for i in range(count)])
        return [rows[i : i + 1] for rows in held for i in range(rows.shape[0])]

    def _made(self, raw: mx.array, start: int) -> mx.array:
        """Entries (b, 1, n, head_dim) that are complete with these tokens; raw begins `kept` tokens before `start`."""
        rate, first = self._rate, start // self._rate
        count = (start + raw.shape[1] - self._kept) // rate - first
        if count < 1:
            return mx.zeros((raw.shape[0], 1, 0, self._dim), raw.dtype)
        at = first * rate - start + self._kept
        own = self._stretches(raw[:, at : at + count * rate], count)
        if self._overlap:
            before = self._stretches(raw[:, at - rate : at + (count - 1) * rate], count)
            (values, weights), (values_before, weights_before) = own, before
            dim = self._dim
            if first == 0:  # nothing is before the first entry
                fresh = mx.arange(count)[:, None, None] == 0
                weights_before = mx.where(fresh, -mx.inf, weights_before)
            values = mx.concatenate([values_before[..., :dim], values[..., dim:]], axis=2)
            weights = mx.concatenate([weights_before[..., :dim], weights[..., dim:]], axis=2)
        else:
            values, weights = own
        weights = mx.softmax(weights.astype(mx.float32), axis=2).astype(values.dtype)
        made = self.kv_norm((values * weights).sum(axis=2))[:, None]  # (b, 1, n, head_dim)
        # An entry's position is that of its first token.
        each = made.transpose(0, 2, 1, 3).reshape(-1, 1, 1, self._dim)
        where = mx.tile((mx.arange(count) + first) * rate, made.shape[0])
        return turned(each, self._rope, self._rope_dim, where).reshape(made.shape[0], 1, count, self._dim)

    def _stretches(self, raw: mx.array, count: int) -> tuple[mx.array, mx.array]:
        """Values and weights (b, n, rate, width)."""
        values, weights = mx.split(mx.unflatten(raw, 1, (count, self._rate)), 2, axis=-1)
        return values, weights + self.position_bias


class EntryIndexer(nn.Module):
    """Chooses entries by the sum of rectified products of all its heads."""

    def __init__(self, o: CompressedOptions):
        super().__init__()
        self._options = o
        self.compressor = Compressor(o.hidden_size, o.index_dim, o)
        self.q_b_proj = Linear(o.q_rank, o.index_heads * o.index_dim, bias=False)
        self.weights_proj = Linear(o.hidden_size, o.index_heads, bias=False)

    def scores(
        self, x: mx.array, compressed: mx.array, position: int | mx.array, entries: list[mx.array]
    ) -> list[mx.array | None]:
        """For each row the scores (L, T) of its index entries, float32; None where all of them may be seen."""
        o = self._options
        if all(row.shape[2] <= o.index_topk for row in entries):
            return [None] * len(entries)
        q = mx.unflatten(self.q_b_proj(compressed), -1, (o.index_heads, -1)).transpose(0, 2, 1, 3)
        weights = self.weights_proj(x).astype(mx.float32) * (o.index_heads * o.index_dim) ** -0.5
        q = turned(q, o.rope, o.rope_dim, position).astype(mx.float32)
        scored = (rectified(q[i : i + 1], row, weights[i : i + 1]) for i, row in enumerate(entries))
        return [mx.concatenate([scores for _, scores in parts], axis=1)[0] for parts in scored]


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
            self.compressor = Compressor(o.hidden_size, o.head_dim, o)
        if o.overlap:
            self.indexer = EntryIndexer(o)

    def state_spec(self) -> StateSpec:
        """The window's keys in two halves; entries and unfinished stretches, the indexer's likewise."""
        o = self._options
        half = o.head_dim // 2
        parts: tuple[StateSpec, ...] = (KVSpec(1, half, o.head_dim - half, o.window),)
        if o.rate:
            parts += self.compressor.state_specs()
        if o.overlap:
            parts += self.indexer.compressor.state_specs()
        return ListSpec(parts)

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        position = offsets(part(state, 0))
        compressed, q, views = self._begun(x, part(state, 0), position)
        out = self._far(x, compressed, q, views, position, state) if self._options.rate else self._near(q, views)
        return self._out(out, position)

    def _begun(
        self, x: mx.array, near: LayerState, position: int | mx.array
    ) -> tuple[mx.array, mx.array, tuple[KVView, ...]]:
        """The compressed queries (B, L, R), those of the heads (B, H, L, D), and the window's keys."""
        o, half = self._options, self._options.head_dim // 2
        compressed = self.q_a_norm(self.q_a_proj(x))
        q = self._queries(mx.unflatten(self.q_b_proj(compressed), -1, (o.num_heads, -1)).transpose(0, 2, 1, 3))
        keys = self.kv_norm(self.kv_proj(x))[:, None]
        q, keys = (turned(a, o.rope, o.rope_dim, position) for a in (q, keys))
        keys = self._kept(keys)
        return compressed, q, attend_states(near, keys[..., :half], keys[..., half:], o.window)

    def _queries(self, q: mx.array) -> mx.array:
        """Queries of the heads before they are turned."""
        return kernels.rms_norm(q, None, self._options.norm_eps)

    def _kept(self, keys: mx.array) -> mx.array:
        """Keys as they are kept."""
        return keys

    def _out(self, heads: mx.array, position: int | mx.array) -> mx.array:
        """What the heads found (B, H, L, head_dim), turned back and projected: (B, L, D)."""
        o, (batch, _, length, _) = self._options, heads.shape
        heads = turned(heads, self._back, o.rope_dim, position).transpose(0, 2, 1, 3)  # (B, L, H, D)
        groups = heads.reshape(batch, length, o.groups, -1).transpose(0, 2, 1, 3)
        return self.o_b_proj(self.o_a_proj(groups).transpose(0, 2, 1, 3).flatten(2))

    def _near(self, q: mx.array, views: tuple[KVView, ...]) -> mx.array:
        both = [whole(view, q.dtype) for view in views]
        views = tuple(KVView(w, w, v.window, v.keep) for w, v in zip(both, views, strict=True))
        return kernels.attention(q, views, scale=self._options.head_dim**-0.5, sinks=self.sinks)

    def _far(
        self,
        x: mx.array,
        compressed: mx.array,
        q: mx.array,
        views: tuple[KVView, ...],
        position: int | mx.array,
        state: LayerState,
    ) -> mx.array:
        """Attention to the window and to the entries, row by row."""
        o, batch = self._options, x.shape[0]
        starts = [position] * batch if isinstance(position, int) else [int(p) for p in position.tolist()]  # type: ignore
        entries = self.compressor(x, part(state, 1), part(state, 2), starts)
        scores: list[mx.array | None] = [None] * batch
        if o.overlap:
            index = self.indexer.compressor(x, part(state, 3), part(state, 4), starts)
            scores = self.indexer.scores(x, compressed, position, index)
        rows = []
        for i, start in enumerate(starts):
            row, view = slice(i, i + 1), views[i if len(views) > 1 else 0]
            near = whole(view, q.dtype)[row if len(views) == 1 else slice(None)]
            mask = finished(entries[i], start, x.shape[1], o.rate)
            ranks = scores[i]
            if ranks is not None and entries[i].shape[2] > o.index_topk:
                mask = mask & best_of(mx.where(mask, ranks, -mx.inf), o.index_topk)
            rows.append(self._both(q[row], near, view, entries[i], mask))
        return rows[0] if batch == 1 else mx.concatenate(rows, axis=0)

    def _both(self, q: mx.array, near: mx.array, view: KVView, entries: mx.array, mask: mx.array) -> mx.array:
        """Queries (b, H, L, D) over the keys `near` of a window, and entries (b, 1, T, D) where `mask` lets them.

        `mask` is (b, L, T), or (L, T) for all rows.
        """
        length, held = q.shape[2], near.shape[2]
        seen = visible(length, held, view.window, view.keep)
        seen = mx.ones((length, held), mx.bool_) if seen is None else seen
        seen = mx.broadcast_to(seen, (*mask.shape[:-1], held))
        both = mx.concatenate([seen, mask], axis=-1)[..., None, :, :]
        keys = mx.concatenate([near, entries.astype(q.dtype)], axis=2)
        scale = self._options.head_dim**-0.5
        return kernels.attention(q, (KVView(keys, keys),), scale=scale, sinks=self.sinks, mask=both)


def whole(view: KVView, dtype: mx.Dtype) -> mx.array:
    """The vectors (B, 1, T, D) of which a view holds the two halves."""
    return mx.concatenate(view.dense(), axis=-1).astype(dtype)


def row_of(count: int, index: int) -> slice:
    """The rows of the batch to which item `index` of `count` belongs."""
    return slice(None) if count == 1 else slice(index, index + 1)


def finished(entries: mx.array, start: int, length: int, rate: int) -> mx.array:
    """Which entries (b, 1, T, D) were complete at each position: (L, T)."""
    ends = (mx.arange(start, start + length)[:, None] + 1) // rate
    return mx.arange(entries.shape[2])[None] < ends


def extended(state: LayerState, made: list[mx.array]) -> list[mx.array]:
    """Appends each item of new vectors (b, 1, n, D) to its state and gives all of them so far (b, 1, T, D)."""
    states: Sequence[State | None] = [state] if state is None or isinstance(state, State) else state
    result = []
    for one, new in zip(states, made, strict=True):
        half = new.shape[-1] // 2
        if one is None or (one.empty() and not new.shape[2]):
            result.append(new)
            continue
        if new.shape[2]:
            (view,) = attend_states(one, new[..., :half], new[..., half:])
        else:
            view = one.view()  # type: ignore[attr-defined]
        result.append(whole(view, new.dtype))
    return result
