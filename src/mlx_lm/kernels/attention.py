"""Attention over what each sequence keeps: grouped heads, windows, sinks, soft caps, quantized and ragged.

Contract: a batch is a tuple of `KVView`, one for each row of the queries (or a single one that holds all rows).
The last L positions of a view are the L queries' own positions. Rows never see each other, so a row's result does
not depend on its batch mates. This module does not know how views are stored.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from . import native

_FLOATS = (mx.float32, mx.bfloat16, mx.float16)

__all__ = ["KVView", "QuantizedTensor", "attention", "latent_attention", "visible"]


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor packed along its last axis by `mx.quantize` (affine)."""

    packed: mx.array  # (..., D*bits/32) uint32
    scales: mx.array  # (..., D/group_size)
    biases: mx.array  # (..., D/group_size)
    group_size: int
    bits: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.packed.shape[:-1], self.scales.shape[-1] * self.group_size)

    def dequantize(self) -> mx.array:
        return mx.dequantize(self.packed, self.scales, self.biases, self.group_size, self.bits)


@dataclass(frozen=True)
class KVView:
    """Keys and values that a row (or all rows, B > 1) may look at, oldest first.

    keys (B, Hkv, T, Dk), values (B, Hkv, T, Dv). A query sees a key at most `window` - 1 positions back, and the
    first `keep` positions always.
    """

    keys: mx.array | QuantizedTensor
    values: mx.array | QuantizedTensor
    window: int | None = None
    keep: int = 0

    def dense(self) -> list[mx.array]:
        """Keys and values, unpacked."""
        return [a if isinstance(a, mx.array) else a.dequantize() for a in (self.keys, self.values)]


def visible(length: int, total: int, window: int | None = None, keep: int = 0) -> mx.array | None:
    """Boolean mask (length, total) of what the last `length` of `total` positions see, or None for everything."""
    if length == 1 and (window is None or total <= window + keep):
        return None
    query = mx.arange(total - length, total)[:, None]
    key = mx.arange(total)[None]
    mask = key <= query
    if window is not None and total > window:
        near = query - key < window
        if keep:
            near = near | (key < keep)
        mask = mask & near
    return mask


def attention(
    queries: mx.array,
    views: tuple[KVView, ...],
    *,
    scale: float,
    softcap: float | None = None,
    sinks: mx.array | None = None,
    mask: mx.array | None = None,
) -> mx.array:
    """Softmax attention.

    queries (B, H, L, Dk); views as in the module's contract; sinks (H,) are extra logits that take probability
    and give nothing (https://arxiv.org/abs/2508.10925); `softcap` c replaces a score s by c*tanh(s/c)
    (https://arxiv.org/abs/2408.00118). `mask`, broadcastable to (B, H, L, T), replaces the causal rule: boolean,
    or of the queries' type to be added to the scores. With one view and a mask, sinks may also be (B, H, L), one for
    each query. Returns (B, H, L, Dv).
    """
    if mask is None:
        out = _native(queries, None, views, scale, softcap, sinks)
        if out is not None:
            return out
    if len(views) == 1:
        return _attend(queries, views[0], scale, softcap, sinks, mask)
    rows = [
        _attend(queries[i : i + 1], view, scale, softcap, sinks, None if mask is None else mask[i : i + 1])
        for i, view in enumerate(views)
    ]
    return mx.concatenate(rows, axis=0)


def _attend(
    queries: mx.array,
    view: KVView,
    scale: float,
    softcap: float | None,
    sinks: mx.array | None,
    mask: mx.array | None,
) -> mx.array:
    length, total = queries.shape[2], view.keys.shape[2]
    keys, values = view.keys, view.values
    tail = mask is None and length == 1 and view.window is not None and not view.keep and total > view.window
    if tail and isinstance(keys, mx.array) and isinstance(values, mx.array) and view.window is not None:
        # One query needs no mask: its window is the tail.
        keys, values, total = keys[:, :, -view.window :], values[:, :, -view.window :], view.window
    by_head = sinks is None or sinks.ndim == 1
    if softcap is None and by_head and isinstance(keys, mx.array) and isinstance(values, mx.array):
        rule = mask
        if rule is None and length > 1 and (view.window is None or total <= view.window):
            return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask="causal", sinks=sinks)
        if rule is None:
            rule = visible(length, total, view.window, view.keep)
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=rule, sinks=sinks)
    if mask is None:
        mask = visible(length, total, view.window, view.keep)
    heads, kv_heads = queries.shape[1], keys.shape[1]
    grouped = mx.unflatten(queries * scale, 1, (kv_heads, heads // kv_heads))  # (B, Hkv, G, L, D)
    scores = _matmul(grouped, _expand(keys), transpose=True).astype(mx.float32)
    if softcap is not None:
        scores = softcap * mx.tanh(scores / softcap)
    if mask is not None:
        if mask.ndim == 4:
            mask = mask[:, :, None] if mask.shape[1] == 1 else mx.unflatten(mask, 1, (kv_heads, heads // kv_heads))
        scores = mx.where(mask, scores, -mx.inf) if mask.dtype == mx.bool_ else scores + mask
    probabilities = _softmax(scores, sinks, kv_heads).astype(queries.dtype)
    return _matmul(probabilities, _expand(values), transpose=False).flatten(1, 2).astype(queries.dtype)


def latent_attention(
    queries: mx.array,
    rope_queries: mx.array,
    views: tuple[KVView, ...],
    *,
    scale: float,
    sinks: mx.array | None = None,
) -> mx.array:
    """Absorbed multi-head latent attention: every head looks at one shared latent.

    queries (B, H, L, R) already multiplied into the latent space, rope_queries (B, H, L, P); a view's keys are the
    latents (b, 1, T, R) and its values the rotated shared keys (b, 1, T, P); sinks (H,) as in `attention`. Returns
    latents (B, H, L, R).
    Source: DeepSeek-V2, https://arxiv.org/abs/2405.04434, section 2.1.
    """
    fast = _native(queries, rope_queries, views, scale, None, sinks)
    if fast is not None:
        return fast
    rows = len(views)
    out = []
    for i, view in enumerate(views):
        q, p = (queries, rope_queries) if rows == 1 else (queries[i : i + 1], rope_queries[i : i + 1])
        mask = visible(q.shape[2], view.keys.shape[2], view.window, view.keep)
        scores = _matmul(q * scale, view.keys, transpose=True) + _matmul(p * scale, view.values, transpose=True)
        scores = scores.astype(mx.float32)
        if mask is not None:
            scores = mx.where(mask, scores, -mx.inf)
        weights = _softmax(scores[:, None], sinks, 1)[:, 0].astype(q.dtype)
        out.append(_matmul(weights, view.keys, transpose=False).astype(q.dtype))
    return out[0] if rows == 1 else mx.concatenate(out, axis=0)


def _native(
    queries: mx.array,
    rope_queries: mx.array | None,
    views: tuple[KVView, ...],
    scale: float,
    softcap: float | None,
    sinks: mx.array | None,
) -> mx.array | None:
    """One node for all rows, or None where the plain expression must serve (no extension, other types, tracing)."""
    module = native.extension()
    if module is None or queries.dtype not in _FLOATS:
        return None
    stored = []
    for view in views:
        keys, values = _stored(view.keys), _stored(view.values)
        if keys is None or values is None or queries.shape[2] > view.keys.shape[2]:
            return None
        stored.append((keys[0], values[0], *keys[1:], *values[1:], view.window or 0, view.keep))
    return module.attention(queries, rope_queries, stored, scale, softcap or 0.0, sinks)


def _stored(x: mx.array | QuantizedTensor) -> tuple[list[Any], int, int] | None:
    """Arrays, bits and group size of keys or values; None for a type that the native kernels do not read."""
    if isinstance(x, mx.array):
        return ([x], 0, 0) if x.dtype in _FLOATS else None
    return ([x.packed, x.scales, x.biases], x.bits, x.group_size) if x.scales.dtype in _FLOATS else None


def _expand(x: mx.array | QuantizedTensor) -> mx.array | QuantizedTensor:
    """Adds the group axis: (B, Hkv, T, D) -> (B, Hkv, 1, T, D)."""
    if isinstance(x, mx.array):
        return x[:, :, None]
    return QuantizedTensor(x.packed[:, :, None], x.scales[:, :, None], x.biases[:, :, None], x.group_size, x.bits)


def _matmul(a: mx.array, b: mx.array | QuantizedTensor, *, transpose: bool) -> mx.array:
    if isinstance(b, mx.array):
        return a @ (b.swapaxes(-1, -2) if transpose else b)
    return mx.quantized_matmul(
        a, b.packed, b.scales, b.biases, transpose=transpose, group_size=b.group_size, bits=b.bits
    )


def _softmax(scores: mx.array, sinks: mx.array | None, kv_heads: int) -> mx.array:
    if sinks is None:
        return mx.softmax(scores, axis=-1)
    sink = sinks[None, :, None] if sinks.ndim == 1 else sinks  # (B, H, L)
    sink = mx.unflatten(sink.astype(mx.float32), 1, (kv_heads, -1))[..., None]
    peak = mx.maximum(mx.max(scores, axis=-1, keepdims=True), sink)
    weights = mx.exp(scores - peak)
    return weights / (mx.sum(weights, axis=-1, keepdims=True) + mx.exp(sink - peak))
