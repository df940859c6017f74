"""Compressed convolutional attention: queries and keys pass two convolutions, half of the values come a token late.

Source: https://arxiv.org/abs/2510.04476.
"""

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..state import ArraySlot, KVSpec, LayerState, ListSpec, RecurrentSpec, StateSpec, batch
from .attention import AttentionOptions
from .conv import CausalConv, tailed
from .linear import Linear

__all__ = ["ConvolvedAttention"]


class GroupedConv(nn.Module):
    """Causal convolution within each head: weight (H, size, K*size), bias (H*size,); x (B, L+K-1, H*size)."""

    def __init__(self, heads: int, size: int, kernel: int):
        super().__init__()
        self._heads, self._kernel = heads, kernel
        self.weight = mx.zeros((heads, size, kernel * size))
        self.bias = mx.zeros((heads * size,))

    def __call__(self, x: mx.array) -> mx.array:
        length = x.shape[1] - self._kernel + 1
        x = mx.unflatten(x, -1, (self._heads, -1)).transpose(0, 2, 1, 3)  # (B, H, L+K-1, D)
        x = mx.concatenate([x[:, :, i : i + length] for i in range(self._kernel)], axis=-1)
        return (x @ self.weight.swapaxes(-1, -2)).transpose(0, 2, 1, 3).flatten(2) + self.bias


class Projections(nn.Module):
    """Queries and keys through two convolutions, beside the mean of both; half of the values come a token late."""

    def __init__(self, o: AttentionOptions, widths: tuple[int, int]):
        super().__init__()
        self._options, self._late = o, sum(widths) - 2
        half = o.kv_size // 2
        sizes = {"q_proj": o.q_size, "k_proj": o.kv_size, "v_proj_current": half, "v_proj_delayed": half}
        for name, size in sizes.items():
            self[name] = Linear(o.hidden_size, size, bias=o.bias)
        self.conv_qk_depthwise = CausalConv(o.q_size + o.kv_size, widths[0], bias=True)
        self.conv_qk_grouped = GroupedConv(o.num_heads + o.num_kv_heads, o.head_dim, widths[1])

    def state_spec(self) -> StateSpec:
        """The last queries and keys before the convolutions, and the late half of the last values."""
        o = self._options
        return RecurrentSpec((ArraySlot((self._late, o.q_size + o.kv_size)), ArraySlot((1, o.kv_size // 2))))

    def __call__(self, x: mx.array, state: LayerState) -> tuple[mx.array, mx.array, mx.array]:
        """Queries, keys and values (B, H, L, D)."""
        o = self._options
        both = mx.concatenate([self.q_proj(x), self.k_proj(x)], axis=-1)
        heads = mx.unflatten(both, -1, (-1, o.head_dim))
        queries, keys = mx.split(heads, [o.num_heads], axis=2)
        share = o.num_heads // o.num_kv_heads
        queries = (queries + mx.repeat(keys, share, axis=2)) * 0.5
        keys = mx.unflatten(queries, 2, (-1, share)).mean(axis=3)
        both = tailed(both, self._late, state)
        mixed = self.conv_qk_grouped(self._depthwise(both))
        mixed = mx.unflatten(mixed, -1, (-1, o.head_dim))
        now, late = self.v_proj_current(x), self.v_proj_delayed(x)
        first = batch.gather_slot(state, 1)
        first = self.v_proj_delayed(mx.zeros_like(x[:, :1])) if first is None else first
        values = mx.concatenate([now, mx.concatenate([first, late[:, :-1]], axis=1)], axis=-1)
        batch.scatter_slots(state, [both[:, both.shape[1] - self._late :], late[:, -1:]], x.shape[1])
        parts = queries + mixed[:, :, : o.num_heads], keys + mixed[:, :, o.num_heads :]
        queries, keys, values = (p.transpose(0, 2, 1, 3) for p in (*parts, mx.unflatten(values, -1, (-1, o.head_dim))))
        return queries, keys, values

    def _depthwise(self, x: mx.array) -> mx.array:
        """What the convolution gives where all of its inputs are known: K-1 positions fewer than x."""
        kept = self.conv_qk_depthwise.weight.shape[1] - 1
        return self.conv_qk_depthwise(x[:, kept:], x[:, :kept])[0]


class ConvolvedAttention(nn.Module):
    """x (B, L, D) -> (B, L, D). Queries and keys have one length; each head's keys also a temperature."""

    def __init__(self, options: AttentionOptions, widths: tuple[int, int]):
        super().__init__()
        self._options = o = options
        self.qkv_proj = Projections(o, widths)
        self.qk_norm = nn.Module()
        self.qk_norm.temp = mx.zeros((o.num_kv_heads,))
        self.o_proj = Linear(o.q_size, o.hidden_size, bias=o.out_bias)

    def state_spec(self) -> StateSpec:
        o = self._options
        return ListSpec((self.qkv_proj.state_spec(), KVSpec(o.num_kv_heads, o.head_dim, o.head_dim, o.window)))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        o, kept = self._options, batch.part(state, 1)
        position = batch.offsets(kept)
        queries, keys, values = self.qkv_proj(x, batch.part(state, 0))
        queries, keys = (kernels.rms_norm(a, None, 1e-30) for a in (queries, keys))
        keys = keys * self.qk_norm["temp"][:, None, None]
        if o.rope is not None:
            queries, keys = o.rope(queries, position), o.rope(keys, position)
        views = batch.attend_states(kept, keys, values, o.window)
        out = kernels.attention(queries, views, scale=o.head_dim**-0.5)
        return self.o_proj(out.transpose(0, 2, 1, 3).flatten(2))
