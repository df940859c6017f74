"""Attention to a window and to compressed entries that a run of layers shares.

One layer of a run makes the entries and the indexer's keys, of every `rate` tokens; some of the layers choose which
entries each query reads, and the layers after them read the same. One of the choosing layers can also mark the best
blocks of entries, among which the later ones choose. Window keys, entries, index keys and index queries are rounded
as models were trained with them. Source: DeepSeek-V4.1, https://huggingface.co/deepseek-ai/DeepSeek-V4.1-Flash.
"""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn

from ..state import (
    ArraySlot,
    KVSpec,
    LayerState,
    ListSpec,
    RecurrentSpec,
    State,
    StateSpec,
    offsets,
    part,
    scatter_slots,
)
from .compressed import CompressedAttention, CompressedOptions, EntrySpec, extended, row_of, turned, whole
from .conv import after_tail
from .entry_index import EntryIndexer, Shared, Sharing
from .linear import Linear
from .norm import RMSNorm
from .rope import Rope
from .rounding import rounded_fp4, rounded_fp8

__all__ = ["EntryMaker", "SharedEntryAttention"]


def _starts(state: LayerState) -> list[int]:
    """The first new position of each item of `Shared`'s lists."""
    if state is None or isinstance(state, State):
        return [0 if state is None else state.offset]
    return [s.offset for s in state]


class EntryMaker(nn.Module):
    """x (B, L, D) -> for each item the entries that these tokens complete (b, 1, n, head_dim), not yet turned."""

    def __init__(self, o: CompressedOptions):
        super().__init__()
        self._rate, self._dim = o.rate, o.head_dim
        self.kv_proj = Linear(o.hidden_size, o.head_dim, bias=False)
        if o.rate > 1:
            self.gate_proj = Linear(o.hidden_size, o.head_dim, bias=False)
        self.kv_norm = RMSNorm(o.head_dim, o.norm_eps)

    def state_spec(self) -> StateSpec:
        """What the tokens of an unfinished entry gave."""
        return RecurrentSpec((ArraySlot((self._rate - 1, 2 * self._dim), mx.float32),) if self._rate > 1 else ())

    def __call__(self, x: mx.array, tail: LayerState, starts: list[int]) -> list[mx.array]:
        if self._rate == 1:
            made = self.kv_norm(self.kv_proj(x))[:, None]
            scatter_slots(tail, [], x.shape[1])
            return [made[row_of(len(starts), i)] for i in range(len(starts))]
        raw = mx.concatenate([self.kv_proj(x), self.gate_proj(x)], axis=-1).astype(mx.float32)
        raw = after_tail(raw, self._rate - 1, tail)
        return [self._pooled(raw[row_of(len(starts), i)], start, x.dtype) for i, start in enumerate(starts)]

    def _pooled(self, raw: mx.array, start: int, dtype: mx.Dtype) -> mx.array:
        """Entries from what tokens gave; raw begins rate - 1 tokens before `start`."""
        rate, kept = self._rate, self._rate - 1
        first = start // rate
        count = (start + raw.shape[1] - kept) // rate - first
        if not count:
            return mx.zeros((raw.shape[0], 1, 0, self._dim), dtype)
        at = first * rate - start + kept
        values, weights = mx.split(mx.unflatten(raw[:, at : at + count * rate], 1, (count, rate)), 2, axis=-1)
        return self.kv_norm((values * mx.softmax(weights, axis=2)).sum(axis=2).astype(dtype))[:, None]


class SharedEntryAttention(CompressedAttention):
    """x (B, L, D) -> (B, L, D), with what the layers share."""

    def __init__(self, options: CompressedOptions, back: Rope, sharing: Sharing):
        super().__init__(replace(options, rate=0, overlap=False), back)
        self._sharing = sharing
        o = replace(options, rate=sharing.rate)
        if sharing.makes:
            self.compressor = EntryMaker(o)
        if sharing.chooses:
            self.indexer = EntryIndexer(o, sharing)

    def state_spec(self) -> StateSpec:
        """The window's keys; of a layer that makes entries also those, an unfinished one, and the index keys."""
        o, half = self._options, self._options.head_dim // 2
        parts: tuple[StateSpec, ...] = (KVSpec(1, half, o.head_dim - half, o.window),)
        if self._sharing.makes:
            sizes = ((d // 2, d - d // 2) for d in (o.head_dim, o.index_dim))
            entries, keys = (EntrySpec(1, *size, rate=self._sharing.rate) for size in sizes)
            parts += (entries, self.compressor.state_spec(), keys)
        return ListSpec(parts)

    def attend(self, x: mx.array, state: LayerState, shared: Shared | None) -> tuple[mx.array, Shared | None]:
        """The layer's output, and what the layers after it share; `shared` is None before the first entries."""
        s, near = self._sharing, part(state, 0)
        position, starts = offsets(near), _starts(near)
        compressed, q, views = self._begun(x, near, position)
        if s.makes:
            shared = self._made(x, state, starts)
        if s.chooses:
            assert shared is not None
            shared = self.indexer(x, compressed, shared, position, starts)
        if not s.rate or shared is None:
            return self._out(self._near(q, views), position), shared
        rows = []
        for i, (view, (entries, mask)) in enumerate(zip(views, shared.read, strict=True)):
            rows.append(self._both(q[row_of(len(views), i)], whole(view, q.dtype), view, entries, mask))
        return self._out(rows[0] if len(rows) == 1 else mx.concatenate(rows, axis=0), position), shared

    def _queries(self, q: mx.array) -> mx.array:
        return q

    def _kept(self, keys: mx.array) -> mx.array:
        return rounded_fp8(keys)

    def _made(self, x: mx.array, state: LayerState, starts: list[int]) -> Shared:
        """All entries and index keys, with those that these tokens complete."""
        entries, keys = [], []
        for made, start in zip(self.compressor(x, part(state, 2), starts), starts, strict=True):
            first = start // self._sharing.rate
            if made.shape[2]:
                key = self.indexer.k_norm(self.indexer.k_proj(made))
                keys.append(rounded_fp4(self._placed(key, first)))
                entries.append(rounded_fp4(self._placed(made, first), fine=True))
            else:
                keys.append(mx.zeros((*made.shape[:3], self._options.index_dim), made.dtype))
                entries.append(made)
        return Shared(extended(part(state, 1), entries), extended(part(state, 3), keys))

    def _placed(self, made: mx.array, first: int) -> mx.array:
        """Entries (b, 1, n, d) from number `first` on, turned by the position of each one's first token."""
        o, rate, (batch, _, count, dim) = self._options, self._sharing.rate, made.shape
        if rate == 1:
            return turned(made, o.rope, o.rope_dim, first)
        each = made.transpose(0, 2, 1, 3).reshape(-1, 1, 1, dim)
        where = mx.tile((mx.arange(count) + first) * rate, batch)
        return turned(each, o.rope, o.rope_dim, where).reshape(batch, 1, count, dim)
