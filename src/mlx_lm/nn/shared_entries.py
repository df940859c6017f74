"""Attention to a window and to compressed entries that a run of layers shares.

One layer of a run makes the entries and the indexer's keys, of every `rate` tokens; some of the layers choose which
entries each query reads, and the layers after them read the same. One of the choosing layers can also mark the best
blocks of entries, among which the later ones choose. Window keys, entries, index keys and index queries are rounded
as models were trained with them. Source: DeepSeek-V4.1, https://huggingface.co/deepseek-ai/DeepSeek-V4.1-Flash.
"""

from dataclasses import replace

import mlx.core as mx

from ..state import KVSpec, LayerState, ListSpec, StateSpec, offsets, part
from .compressed import CompressedAttention, CompressedOptions, EntryMaker, placed
from .entry_index import EntryIndexer, Shared, Sharing
from .rope import Rope
from .rounding import rounded_fp4, rounded_fp8
from .rows import EntrySpec, extended, halves, starts_of

__all__ = ["SharedEntryAttention"]


class SharedEntryAttention(CompressedAttention):
    """x (B, L, D) -> (B, L, D), with what the layers share."""

    def __init__(self, options: CompressedOptions, back: Rope, sharing: Sharing):
        super().__init__(replace(options, rate=0, overlap=False), back)
        self._sharing = sharing
        self._options = o = replace(options, rate=sharing.rate, overlap=False)
        if sharing.makes:
            self.compressor = EntryMaker(o, o.head_dim, weighted=o.rate > 1)
        if sharing.chooses:
            self.indexer = EntryIndexer(o, sharing)

    def state_spec(self) -> StateSpec:
        """The window's keys; of a layer that makes entries also those, an unfinished one, and the index keys."""
        o = self._options
        near = KVSpec(1, *halves(o.head_dim), o.window)
        if not self._sharing.makes:
            return ListSpec((near,))
        entries, keys = (EntrySpec(1, *halves(dim), rate=o.rate) for dim in (o.head_dim, o.index_dim))
        return ListSpec((near, entries, self.compressor.state_spec(), keys))

    def attend(self, x: mx.array, state: LayerState, shared: Shared | None) -> tuple[mx.array, Shared | None]:
        """The layer's output, and what the layers after it share; `shared` is None before the first entries."""
        s, near = self._sharing, part(state, 0)
        position, starts = offsets(near), starts_of(near)
        compressed, q, views = self._begun(x, near, position)
        if s.makes:
            shared = self._made(x, state, starts)
        if s.chooses:
            assert shared is not None
            shared = self.indexer(x, compressed, shared, position, starts)
        heads = self._read(q, views, shared.read) if s.rate and shared is not None else self._near(q, views)
        return self._out(heads, position), shared

    def _queries(self, q: mx.array) -> mx.array:
        return q

    def _kept(self, keys: mx.array) -> mx.array:
        return rounded_fp8(keys)

    def _made(self, x: mx.array, state: LayerState, starts: list[int]) -> Shared:
        """All entries and index keys, with those that these tokens complete."""
        o, entries, keys = self._options, [], []
        for made, start in zip(self.compressor(x, part(state, 2), starts), starts, strict=True):
            first = start // o.rate
            if made.shape[2]:
                key = self.indexer.k_norm(self.indexer.k_proj(made))
                keys.append(rounded_fp4(placed(key, first, o)))
                entries.append(rounded_fp4(placed(made, first, o), fine=True))
            else:
                keys.append(mx.zeros((*made.shape[:3], o.index_dim), made.dtype))
                entries.append(made)
        return Shared(extended(part(state, 1), entries), extended(part(state, 3), keys))
