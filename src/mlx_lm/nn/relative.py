"""Attention that learns how scores depend on distance, with short convolutions over keys and values.

Each query mixes a bias for each distance from a few learned profiles; beyond their extent there is none. Convolutions
are added to what they read. Source: https://huggingface.co/thinkingmachines/Inkling.
"""

from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..kernels import KVView, visible
from ..state import LayerState, ListSpec, RecurrentSpec, StateSpec, attend_states, offsets, part
from .attention import AttentionOptions
from .biased import BiasedAttention
from .conv import CausalConv
from .linear import Linear
from .rows import Position, by_view, joined

__all__ = ["Heads", "RelativeAttention", "RelativeOptions", "ResidualConv", "Sources"]

_BIAS_BYTES = 256 << 20  # biases of all heads at a time

Sources: TypeAlias = tuple[mx.array, mx.array]
Heads: TypeAlias = tuple[mx.array, mx.array, mx.array, mx.array]
"""Queries, keys, values and the weights of the profiles, each (B, H, L, ...)."""


@dataclass(frozen=True)
class RelativeOptions:
    """Sizes of the bias and of the convolutions.

    Attributes:
        dims: profiles that a query mixes.
        extent: distances that a profile covers.
        kernel: width of the convolutions.
        floor: position from which queries grow by 1 + alpha * log(position / floor); None for never.
    """

    dims: int
    extent: int
    kernel: int
    floor: int | None = None
    alpha: float = 0.0


class ResidualConv(nn.Module):
    """x (B, L, C) -> (x + conv(x)) * scale."""

    def __init__(self, channels: int, kernel: int, scale: float = 1.0):
        super().__init__()
        self.conv1d = CausalConv(channels, kernel, bias=False)
        self._scale = scale

    def state_spec(self) -> StateSpec:
        """What the layer keeps for a sequence."""
        return RecurrentSpec((self.conv1d.slot(),))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        y = x + self.conv1d.alone(x, state)
        return y if self._scale == 1.0 else y * self._scale


class RelativeAttention(BiasedAttention):
    """x (B, L, D) -> (B, L, D)."""

    def __init__(self, options: AttentionOptions, relative: RelativeOptions):
        super().__init__(options)
        o, self._relative = options, relative
        self.r_proj = Linear(o.hidden_size, o.num_heads * relative.dims, bias=False)
        self.rel_logits_proj = nn.Module()
        self.rel_logits_proj.proj = mx.zeros((relative.dims, relative.extent))
        self.k_sconv, self.v_sconv = (ResidualConv(o.kv_size, relative.kernel) for _ in range(2))

    def state_spec(self) -> StateSpec:
        return ListSpec((super().state_spec(), self.k_sconv.state_spec(), self.v_sconv.state_spec()))

    def __call__(self, x: mx.array, state: LayerState = None, sources: Sources | None = None) -> mx.array:
        """`sources` are what keys and values are made from where it is not `x`."""
        kept = part(state, 0)
        position = offsets(kept)
        queries, keys, values, relative = self._heads(x, sources or (x, x), (part(state, 1), part(state, 2)))
        views = attend_states(kept, keys, values, self._options.window)
        growth = self._growth(position, x.shape[1])
        if growth is not None:
            queries, relative = (a * growth.astype(a.dtype) for a in (queries, relative))
        rows = [self._row(*each) for each in by_view(views, position, queries, relative, self._sinks(x))]
        return self._out(joined(rows).transpose(0, 2, 1, 3).flatten(2), x)

    def _heads(self, x: mx.array, sources: Sources, states: tuple[LayerState, LayerState]) -> Heads:
        o = self._options
        keys, values = (self._convolved(*each) for each in zip("kv", sources, states, strict=True))
        queries, keys, values = (
            mx.unflatten(a, -1, (-1, o.head_dim)).transpose(0, 2, 1, 3) for a in (self.q_proj(x), keys, values)
        )
        if o.qk_norm is not None:
            queries, keys = self[self.q_norm_name](queries), self[self.k_norm_name](keys)
        return queries, keys, values, mx.unflatten(self.r_proj(x), -1, (o.num_heads, -1)).transpose(0, 2, 1, 3)

    def _convolved(self, name: str, source: mx.array, state: LayerState) -> mx.array:
        """Keys ("k") or values ("v") of all heads (B, L, H*D)."""
        return self[f"{name}_sconv"](self[f"{name}_proj"](source), state)

    def _sinks(self, x: mx.array) -> mx.array | None:
        """An extra logit for each query (B, H, L), or None."""
        return None

    def _out(self, out: mx.array, x: mx.array) -> mx.array:
        return self[self.out_name](out)

    def _growth(self, position: Position, length: int) -> mx.array | None:
        if self._relative.floor is None:
            return None
        at = mx.arange(1, length + 1)[:, None]
        at = at + (position if isinstance(position, int) else position[:, None, None, None])
        return 1 + self._relative.alpha * mx.log(mx.maximum(at / self._relative.floor, 1))

    def _row(
        self, view: KVView, start: Position, queries: mx.array, relative: mx.array, sinks: mx.array | None
    ) -> mx.array:
        """Attention of queries (b, H, L, D) from position `start` on over one view."""
        length, held, extent = queries.shape[2], view.keys.shape[2], self._relative.extent
        seen = visible(length, held, view.window, view.keep)
        away = mx.arange(length)[:, None] + start - self.key_positions(view, start + length)  # (L, T)
        step = max(1, _BIAS_BYTES // (4 * queries.shape[0] * queries.shape[1] * held))
        parts = []
        for first in range(0, length, step):
            some = slice(first, first + step)
            distance, bias = away[some], relative[:, :, some] @ self.rel_logits_proj["proj"]
            index = mx.broadcast_to(mx.clip(distance, 0, extent - 1), (*bias.shape[:3], held))
            bias = mx.where(distance < extent, mx.take_along_axis(bias, index, axis=-1), 0)
            bias = bias if seen is None else mx.where(seen[some], bias, -mx.inf)
            own = None if sinks is None else sinks[:, :, some]
            options = {"scale": self.scale, "softcap": self._options.softcap, "sinks": own}
            parts.append(kernels.attention(queries[:, :, some], (view,), **options, mask=bias.astype(queries.dtype)))
        return joined(parts, axis=2)
