"""Grouped-query attention with the options that two or more families share.

A family's own quirk is a subclass in that family's file. The block reads no config and does not know how keys and
values are kept. Source: GQA, https://arxiv.org/abs/2305.13245.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..kernels import KVView
from ..state import KVSpec, LayerState, StateSpec, attend_states, offsets
from .linear import Linear
from .rope import Rope

__all__ = [
    "Attention", "AttentionOptions", "GatedAttention", "HeadwiseAttention", "OutProjAttention", "RotatedNormAttention",
]  # fmt: skip


@dataclass(frozen=True)
class AttentionOptions:
    """Sizes and switches of one attention layer.

    Attributes:
        rope: None for layers without positions.
        scale: on the scores; None is head_dim ** -0.5.
        window: positions that a query sees, itself included; None for all.
        bias: on the query, key and value projections; `out_bias` on the output projection.
        qk_norm: makes a norm for queries and keys from a size; `qk_norm_full` norms all heads together, before
            they are split.
        softcap: c*tanh(score/c).
        sinks: one learned extra logit a head.
        fused: one `qkv_proj` instead of three.
        gated: the query projection also gives a sigmoid gate on the output.
        clip: queries, keys and values are limited to +- this.
    """

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: Rope | None
    scale: float | None = None
    window: int | None = None
    bias: bool = False
    out_bias: bool = False
    qk_norm: Callable[[int], nn.Module] | None = None
    qk_norm_full: bool = False
    softcap: float | None = None
    sinks: bool = False
    fused: bool = False
    gated: bool = False
    clip: float | None = None

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim


class Attention(nn.Module):
    """x (B, L, D) -> (B, L, D). Class attributes name the parameters where a family's checkpoints differ."""

    q_name, k_name, v_name = "q_proj", "k_proj", "v_proj"
    qkv_name, out_name = "qkv_proj", "o_proj"
    q_norm_name, k_norm_name = "q_norm", "k_norm"

    def __init__(self, options: AttentionOptions):
        super().__init__()
        self._options = o = options
        self.scale = o.head_dim**-0.5 if o.scale is None else o.scale
        if o.fused:
            self[self.qkv_name] = Linear(o.hidden_size, o.q_size + 2 * o.kv_size, bias=o.bias)
        else:
            self[self.q_name] = Linear(o.hidden_size, o.q_size * (2 if o.gated else 1), bias=o.bias)
            for name in (self.k_name, self.v_name):
                self[name] = Linear(o.hidden_size, o.kv_size, bias=o.bias)
        self[self.out_name] = Linear(o.q_size, o.hidden_size, bias=o.out_bias)
        if o.qk_norm is not None:
            self[self.q_norm_name] = o.qk_norm(o.q_size if o.qk_norm_full else o.head_dim)
            self[self.k_norm_name] = o.qk_norm(o.kv_size if o.qk_norm_full else o.head_dim)
        if o.sinks:
            self.sinks = mx.zeros((o.num_heads,))

    def add(self, args: Any, index: int) -> None:
        """Makes what layer `index` of a family has beside projections and norms; `args` is the family's own config."""

    def state_spec(self) -> StateSpec:
        """What the layer keeps for a sequence."""
        o = self._options
        return KVSpec(o.num_kv_heads, o.head_dim, o.head_dim, o.window)

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        o = self._options
        queries, keys, values, gate = self._project(x)
        position = offsets(state)
        queries, keys = self._place(queries, keys, position)
        views = attend_states(state, keys, values, o.window)
        out = self._attend(queries, views, position).transpose(0, 2, 1, 3).flatten(2)  # (B, L, H*D)
        if gate is not None:
            out = self._gated(out, gate)
        return self[self.out_name](out)

    def _gated(self, out: mx.array, gate: mx.array) -> mx.array:
        return out * mx.sigmoid(gate)

    def _attend(self, queries: mx.array, views: tuple[KVView, ...], position: int | mx.array) -> mx.array:
        """Queries (B, H, L, D), of which the first stands at `position`, over the rows' views -> (B, H, L, Dv)."""
        o = self._options
        return kernels.attention(queries, views, scale=self.scale, softcap=o.softcap, sinks=self.get("sinks"))

    def _place(self, queries: mx.array, keys: mx.array, position: int | mx.array) -> tuple[mx.array, mx.array]:
        """Queries and keys rotated to their positions; the first token's is `position`, one number or (B,)."""
        rope = self._options.rope
        return (queries, keys) if rope is None else (rope(queries, position), rope(keys, position))

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array | None]:
        """Queries, keys and values (B, H, L, D), normalized; the output gate (B, L, H*D) or None."""
        o, gate = self._options, None
        if o.fused:
            queries, keys, values = mx.split(self[self.qkv_name](x), [o.q_size, o.q_size + o.kv_size], axis=-1)
        else:
            queries, keys, values = self[self.q_name](x), self[self.k_name](x), self[self.v_name](x)
        if o.gated:
            queries, gate = mx.split(queries.reshape(*x.shape[:2], o.num_heads, -1), 2, axis=-1)
            queries, gate = queries.flatten(2), gate.flatten(2)
        if o.qk_norm is not None and o.qk_norm_full:
            queries, keys = self[self.q_norm_name](queries), self[self.k_norm_name](keys)
        if o.clip is not None:
            queries, keys, values = (mx.clip(a, -o.clip, o.clip) for a in (queries, keys, values))
        queries, keys, values = (
            a.reshape(*x.shape[:2], -1, o.head_dim).transpose(0, 2, 1, 3) for a in (queries, keys, values)
        )
        return *self._normed(queries, keys), values, gate

    def _normed(self, queries: mx.array, keys: mx.array) -> tuple[mx.array, mx.array]:
        """Queries and keys (B, H, L, D) after the norms on single heads, if there are such."""
        if self._options.qk_norm is None or self._options.qk_norm_full:
            return queries, keys
        return self[self.q_norm_name](queries), self[self.k_norm_name](keys)


class RotatedNormAttention(Attention):
    """Heads are normed after their rotation."""

    def _normed(self, queries: mx.array, keys: mx.array) -> tuple[mx.array, mx.array]:
        return queries, keys

    def _place(self, queries: mx.array, keys: mx.array, position: int | mx.array) -> tuple[mx.array, mx.array]:
        return super()._normed(*super()._place(queries, keys, position))


class OutProjAttention(Attention):
    """Attention whose output projection is `out_proj`."""

    out_name = "out_proj"


class GatedAttention(Attention):
    """The output's sigmoid gate has a projection of its own, for each feature or for each head."""

    gate_name = "gate_proj"
    biased_gate = False  # where the other projections have one
    per_head = False

    def __init__(self, options: AttentionOptions):
        super().__init__(options)
        size = options.num_heads * (1 if self.per_head else options.head_dim)
        self[self.gate_name] = Linear(options.hidden_size, size, bias=self.biased_gate and options.bias)

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array | None]:
        queries, keys, values, _ = super()._project(x)
        gate = self[self.gate_name](x)
        return queries, keys, values, mx.repeat(gate, self._options.head_dim, axis=-1) if self.per_head else gate


class HeadwiseAttention(Attention):
    """The fused projection holds query, key and value of the first head, then of the second, and so on."""

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array | None]:
        fused = self[self.qkv_name](x).reshape(*x.shape[:2], self._options.num_heads, 3, -1)
        queries, keys, values = (fused[..., i, :].transpose(0, 2, 1, 3) for i in range(3))
        return *self._normed(queries, keys), values, None
