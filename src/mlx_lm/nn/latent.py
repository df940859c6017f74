"""Multi-head latent attention: one compressed latent and one rotary key for all heads are kept, not keys and values.

Short inputs (decode, verify steps) multiply queries and outputs through the per-head matrices and attend to the
latents themselves; long ones expand the latents into keys and values, a group of heads at a time. Both work on the
weights as they are stored, dense or packed. Source: DeepSeek-V2, https://arxiv.org/abs/2405.04434, section 2.1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..kernels import KVView
from ..state import KVSpec, LayerState, StateSpec, attend_states, offsets
from .interleaved import packing
from .linear import Linear, Packed, QuantizedLinear, SwitchLinear
from .norm import RMSNorm
from .rope import Rope
from .rows import Position, Views, by_view, joined

__all__ = ["HeadLinear", "LatentAttention", "LatentOptions", "QuantizedHeadLinear"]

_ABSORB_UP_TO = 16  # query rows; beyond, expanding the latents once costs less than wide products for each row
_EXPANDED_BYTES = 256 << 20  # expanded keys and values at a time


@dataclass(frozen=True)
class LatentOptions:
    """Sizes and switches of one latent attention layer.

    Attributes:
        q_rank: size of the compressed query; None projects queries directly.
        kv_rank: size of the latent.
        nope_dim, rope_dim, value_dim: sizes, for each head, of the key part without positions, of the rotary part
            (shared by all heads), and of the value.
        rope: None for layers without positions.
        bias: on the compressing projections; `out_bias` on the output projection.
        split: per-head matrices are kept as `embed_q` (key to latent) and `unembed_out` (latent to value) instead of
            one `kv_b_proj`.
        sinks: one learned extra logit a head.
        window: positions that a query sees, itself included; None for all.
        grow_queries, grow_latents: the norms of compressed queries and of latents give vectors of the length that
            hidden states have.
    """

    hidden_size: int
    num_heads: int
    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    rope: Rope | None
    scale: float
    norm_eps: float = 1e-6
    bias: bool = False
    out_bias: bool = False
    split: bool = False
    sinks: bool = False
    window: int | None = None
    grow_queries: bool = False
    grow_latents: bool = False


class LatentNorm(RMSNorm):
    """Brings compressed vectors to `factor` times their usual length."""

    factor = 1.0

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x) * self.factor


class LatentAttention(nn.Module):
    """x (B, L, D) -> (B, L, D). With a `gate_name` the output has a sigmoid gate for each feature or for each head."""

    read_as_arrays = ("embed_q", "unembed_out", "kv_b_proj")  # regrouped, they would be computed back in every step

    gate_name: str | None = None
    per_head = False
    out_name = "o_proj"

    def __init__(self, options: LatentOptions):
        super().__init__()
        self._options = o = options
        q_size = o.num_heads * (o.nope_dim + o.rope_dim)
        if o.q_rank is None:
            self.q_proj = Linear(o.hidden_size, q_size, bias=False)
        else:
            self.q_a_proj = Linear(o.hidden_size, o.q_rank, bias=o.bias)
            self.q_a_layernorm = self._norm(o.q_rank, o.grow_queries)
            self.q_b_proj = Linear(o.q_rank, q_size, bias=False)
        self.kv_a_proj_with_mqa = Linear(o.hidden_size, o.kv_rank + o.rope_dim, bias=o.bias)
        self.kv_a_layernorm = self._norm(o.kv_rank, o.grow_latents)
        if o.split:
            self.embed_q = HeadLinear(o.nope_dim, o.kv_rank, o.num_heads)
            self.unembed_out = HeadLinear(o.kv_rank, o.value_dim, o.num_heads)
        else:
            self.kv_b_proj = Linear(o.kv_rank, o.num_heads * (o.nope_dim + o.value_dim), bias=False)
        self[self.out_name] = Linear(o.num_heads * o.value_dim, o.hidden_size, bias=o.out_bias)
        if self.gate_name:
            size = o.num_heads * (1 if self.per_head else o.value_dim)
            self[self.gate_name] = Linear(o.hidden_size, size, bias=False)
        if o.sinks:
            self.sinks = mx.zeros((o.num_heads,))

    def _norm(self, rank: int, grows: bool) -> RMSNorm:
        norm = (LatentNorm if grows else RMSNorm)(rank, self._options.norm_eps)
        norm.factor = (self._options.hidden_size / rank) ** 0.5
        return norm

    def state_spec(self) -> StateSpec:
        """What the layer keeps for a sequence: latents as keys, rotary keys as values."""
        o = self._options
        return KVSpec(1, o.kv_rank, o.rope_dim, o.window, latent=True)

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        queries, rope_queries, latents, rope_keys = self._project(x, offsets(state))
        views = attend_states(state, latents, rope_keys, self._options.window)
        return self._out(self._attend(queries, rope_queries, views), self._gate(x))

    def _gate(self, x: mx.array) -> mx.array | None:
        """The logits of the output's gate (B, L, H*value), or None."""
        if self.gate_name is None:
            return None
        gate = self[self.gate_name](x)
        return mx.repeat(gate, self._options.value_dim, axis=-1) if self.per_head else gate

    def _out(self, heads: mx.array, gate: mx.array | None) -> mx.array:
        """What the heads found (B, H, L, value), gated and projected: (B, L, D)."""
        out = heads.transpose(0, 2, 1, 3).flatten(2)
        return self[self.out_name](out if gate is None else out * mx.sigmoid(gate).astype(out.dtype))

    def _attend(self, queries: mx.array, rope_queries: mx.array, views: Views) -> mx.array:
        """Query parts (B, H, L, nope) and (B, H, L, rope) over the rows' views -> (B, H, L, value)."""
        absorbed = self._absorbed(queries.shape[2])
        if absorbed is None:
            return self._expanded(mx.concatenate([queries, rope_queries], axis=-1), views)
        options = {"scale": self._options.scale, "sinks": self.get("sinks")}
        latents = kernels.latent_attention(absorbed[0].to_latent(queries), rope_queries, views, **options)
        return absorbed[1].from_latent(latents)

    def _project(self, x: mx.array, position: Position) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """Query parts (B, H, L, nope) and (B, H, L, rope), latents (B, 1, L, R), rotary keys (B, 1, L, rope)."""
        whole = self._options.q_rank is None
        q = self.q_proj(x) if whole else self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        return self._parts(q, x, position)

    def _parts(self, q: mx.array, x: mx.array, position: Position) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """As `_project`, from the queries of all heads (B, L, H*(nope+rope))."""
        o = self._options
        q = q.reshape(*x.shape[:2], o.num_heads, -1).transpose(0, 2, 1, 3)
        queries, rope_queries = mx.split(q, [o.nope_dim], axis=-1)
        latents, rope_keys = self._latents(x)
        if o.rope is not None:
            rope_queries, rope_keys = o.rope(rope_queries, position), o.rope(rope_keys, position)
        return queries, rope_queries, latents, rope_keys

    def _latents(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Normalized latents (B, 1, L, R), and keys (B, 1, L, rope) before they are rotated."""
        latents, rope_keys = mx.split(self.kv_a_proj_with_mqa(x)[:, None], [self._options.kv_rank], axis=-1)
        return self.kv_a_layernorm(latents), rope_keys

    def _absorbed(self, length: int) -> "tuple[_HeadWeights, _HeadWeights] | None":
        """The per-head matrices where `length` queries attend to the latents themselves, else None."""
        return self._head_weights() if length <= _ABSORB_UP_TO else None

    def _head_weights(self) -> "tuple[_HeadWeights, _HeadWeights] | None":
        """The per-head matrices for keys and for values; None where a layer was replaced (by an adapter)."""
        o = self._options
        layers = (self.embed_q, self.unembed_out) if o.split else (self.kv_b_proj,)
        if any(type(layer) not in _OWN_LAYERS for layer in layers):
            return None
        first, *rest = map(_weights_of, layers)
        if rest:
            return replace(first, to_latent_form=True), rest[0]
        fused = first.each(lambda a: a.reshape(o.num_heads, -1, a.shape[-1]))
        return fused.each(lambda a: a[:, : o.nope_dim]), fused.each(lambda a: a[:, o.nope_dim :])

    def _expanded(self, queries: mx.array, views: Views) -> mx.array:
        """Attention over expanded keys and values: queries (B, H, L, nope+rope) -> (B, H, L, value)."""
        return joined([self._expanded_row(own, view) for view, _, own in by_view(views, 0, queries)])

    def _expanded_row(self, queries: mx.array, view: KVView, mask: mx.array | None = None) -> mx.array:
        """Attention to what `view` says is seen, or instead to what `mask` (b, 1, L, T) says."""
        o = self._options
        latents, rope_keys = (a.astype(queries.dtype) for a in view.dense())
        batch, _, total, _ = latents.shape
        size = (o.nope_dim + o.rope_dim + o.value_dim) * batch * total * latents.itemsize
        group = max(1, _EXPANDED_BYTES // size)
        weights, whole = self._head_weights(), latents
        if weights is None:  # an adapter's layer gives all heads at once
            whole = self.kv_b_proj(latents[:, 0]).reshape(batch, total, o.num_heads, -1).transpose(0, 2, 1, 3)
        out = []
        for start in range(0, o.num_heads, group):
            heads = slice(start, start + group)
            if weights is None:
                keys, values = mx.split(whole[:, heads], [o.nope_dim], axis=-1)
            else:
                keys, values = (one.each(itemgetter(heads)).from_latent(latents) for one in weights)
            shared = mx.broadcast_to(rope_keys, (batch, keys.shape[1], total, o.rope_dim))
            seen = KVView(mx.concatenate([keys, shared], axis=-1), values, view.window, view.keep)
            sinks = self.sinks[heads] if o.sinks else None
            out.append(kernels.attention(queries[:, heads], (seen,), scale=o.scale, sinks=sinks, mask=mask))
        return joined(out, axis=1)


class QuantizedHeadLinear(Packed):
    """`HeadLinear` with weights packed by `mx.quantize`."""

    def __init__(self, layer: "HeadLinear", group_size: int | None, bits: int | None, mode: str):
        super().__init__()
        self.pack(layer.weight, group_size, bits, mode)

    def __call__(self, x: mx.array) -> mx.array:
        return _weights_of(self).from_latent(x)


class HeadLinear(SwitchLinear):
    """One matrix per head: weight (H, output_dims, input_dims), x (B, H, L, input_dims)."""

    make_packed = QuantizedHeadLinear

    def __init__(self, input_dims: int, output_dims: int, num_heads: int):
        super().__init__(input_dims, output_dims, num_heads, bias=False)

    def __call__(self, x: mx.array) -> mx.array:  # type: ignore[override]
        return x @ self.weight.swapaxes(-1, -2)


@dataclass(frozen=True)
class _HeadWeights:
    """Per-head matrices (H, N, K), dense or packed along K with scales and biases.

    Unless `to_latent_form`, K is the latent's size; with it, N is.
    """

    arrays: tuple[mx.array, ...]
    packing: dict[str, Any]
    to_latent_form: bool = False

    def each(self, change: Callable[[mx.array], mx.array]) -> "_HeadWeights":
        return replace(self, arrays=tuple(change(array) for array in self.arrays))

    def to_latent(self, x: mx.array) -> mx.array:
        """x (B, H, L, key) -> (B, H, L, R)."""
        return self._product(x, transpose=self.to_latent_form)

    def from_latent(self, x: mx.array) -> mx.array:
        """x (B, H or 1, L, R) -> (B, H, L, key or value)."""
        return self._product(x, transpose=not self.to_latent_form)

    def _product(self, x: mx.array, *, transpose: bool) -> mx.array:
        batch, heads, length, width = x.shape
        weight, *rest = self.arrays
        # Rows of all sequences together: each head's matrix is read once.
        x = x.transpose(1, 0, 2, 3).reshape(heads, batch * length, width)
        if not rest:
            y = x @ (weight.swapaxes(-1, -2) if transpose else weight)
        else:
            x = mx.broadcast_to(x, (weight.shape[0], *x.shape[1:]))
            y = kernels.quantized_matmul(x, *self.arrays, transpose=transpose, **self.packing)
        return y.reshape(y.shape[0], batch, length, -1).transpose(1, 0, 2, 3)


def _weights_of(layer: nn.Module) -> _HeadWeights:
    """The matrices of a layer of ours, (H, N, K) or (N, K)."""
    arrays = tuple(layer[name] for name in ("weight", "scales", "biases") if name in layer)
    return _HeadWeights(arrays, packing(layer) if len(arrays) > 1 else {})


_OWN_LAYERS = (Linear, QuantizedLinear, HeadLinear, QuantizedHeadLinear)
