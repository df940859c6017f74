"""Runs of decoder layers as one node: plans made of arrays and numbers, and buffers that a step writes in place.

Only the native CPU kernels have this; callers keep the ordinary layers for everything else. A plan is a value: it
keeps the arrays that it was made of and never looks at them again, so callers make another when a weight is replaced
(`Watch` notices). This module does not know modules, states or models.

Purity: a `TokenStore` owns its memory alone, so a step that writes new tokens behind the old ones changes no array
that anybody can see. Steps on one store are chained by passing the node that wrote last in `after`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from . import native
from .activations import NATIVE_NAMES

__all__ = [
    "FusedLayer",
    "FusedLinear",
    "FusedNorm",
    "FusedRope",
    "adopt_tokens",
    "allocate_tokens",
    "available",
    "make_plan",
    "mark",
    "new_watch",
    "run_layers",
    "token_memory",
    "traced",
]


_LARGE = 12 << 20  # bytes; with less to read a step gains less than the pages cost
_AT_ONCE = 32 << 20  # bytes; large pages cost a millisecond or more when first written, which a running stream feels


@dataclass(frozen=True)
class FusedLinear:
    """Rows [first, first + count) of a weight as MLX stores it; `interleaved` as in `kernels.linear`."""

    weight: mx.array
    scales: mx.array | None = None
    biases: mx.array | None = None
    bias: mx.array | None = None
    mode: str = "dense"
    bits: int = 0
    group_size: int = 0
    interleaved: bool = False
    first: int = 0
    count: int | None = None


@dataclass(frozen=True)
class FusedNorm:
    """A root-mean-square norm: `offset + weight` (D,)."""

    weight: mx.array
    eps: float
    offset: float = 0.0


@dataclass(frozen=True)
class FusedRope:
    """`dims` rotated features by `base` or by wavelength divisors `freqs` (dims/2,), times `scale`."""

    dims: int
    freqs: mx.array | None
    base: float | None
    scale: float
    traditional: bool

    def inverse(self) -> mx.array:
        """Radians per position of each pair (dims/2,), computed as MLX's composed rope does."""
        if self.freqs is not None:
            return mx.reciprocal(self.freqs.astype(mx.float32))
        assert self.base is not None, "a rope has a base or divisors"
        half = self.dims // 2
        return mx.exp(mx.arange(0, -half, -1, dtype=mx.float32) * (mx.log(mx.array(self.base, mx.float32)) / half))


@dataclass(frozen=True)
class FusedLayer:
    """One decoder layer. `qkv` holds q, k and v, or one weight with all their rows; `gate` may be None."""

    qkv: tuple[FusedLinear, ...]
    out: FusedLinear
    up: FusedLinear
    down: FusedLinear
    gate: FusedLinear | None
    act: str
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    softcap: float | None = None
    sinks: mx.array | None = None
    rope: FusedRope | None = None
    residual_scale: float = 1.0
    pre_mixer: FusedNorm | None = None
    post_mixer: FusedNorm | None = None
    pre_feed_forward: FusedNorm | None = None
    post_feed_forward: FusedNorm | None = None
    q_norm: FusedNorm | None = None
    k_norm: FusedNorm | None = None
    qk_norm_full: bool = False


def available() -> bool:
    """Whether fused layers can run on the default device."""
    return hasattr(native.extension(), "ArrayMark")


def traced(x: mx.array) -> bool:
    """Whether `x` is being traced (gradients, vmap, compile), where steps with side effects must not be used."""
    module = native.extension()
    return module is not None and module.traced(x)


def new_watch() -> Any:
    """An empty watch: `add(dict, key, value)`, then `unchanged()` while every entry still holds the same object
    and no lazy array has been computed."""
    return _module().Watch()


def mark(array: mx.array) -> Any:
    """The present content of `array`: `same(array)` until somebody updates it in place; `evaluated()` once it is
    computed."""
    return _module().ArrayMark(array)


def token_memory(nbytes: int) -> Any:
    """One allocation for several token stores, None when it would be too small for large pages.

    Call `settle` on it when they are allocated.
    """
    return _module().SteadyMemory(nbytes, nbytes <= _AT_ONCE) if nbytes >= _LARGE else None


def allocate_tokens(shape: Sequence[int], dtype: mx.Dtype, memory: Any = None) -> Any:
    """A store of zeros (B, H, capacity, D), in `memory` where it fits."""
    return _module().TokenStore.allocate(list(shape), dtype, memory)


def adopt_tokens(array: mx.array) -> Any:
    """A store with the content of an evaluated array (B, H, capacity, D): its memory when nobody shares it."""
    return _module().TokenStore.adopt(array)


def make_plan(layers: Sequence[FusedLayer], hidden_size: int, final_norm: FusedNorm | None) -> Any:
    """The native plan of consecutive layers, and of the norm that follows them; arrays must be evaluated."""
    module = _module()
    plan = module.FusedPlan()
    plan.hidden = hidden_size
    if final_norm is not None:
        plan.final_norm = _norm(module, final_norm)
    for layer in layers:
        plan.add(_layer(module, layer))
    return plan


def run_layers(
    plan: Any,
    x: mx.array,
    *,
    keys: Sequence[Any],
    values: Sequence[Any],
    lengths: Sequence[int],
    windows: Sequence[int],
    keeps: Sequence[int],
    positions: Sequence[int],
    after: Sequence[mx.array],
    dtype: mx.Dtype,
) -> mx.array:
    """One step: x (B, L, D) through the plan's layers, result (B, L, D) of `dtype`.

    keys and values have one store for each layer that holds all rows, or one for each layer and sequence (layer by
    layer); `lengths`, `windows` (0: all) and `keeps` go with them; `positions` (B,) are the rows' first new ones.
    """
    fast = native.activations() == "int8"
    return _module().fused_layers(plan, x, keys, values, lengths, windows, keeps, positions, after, dtype, fast)


def _module() -> Any:
    module = native.extension()
    assert module is not None, "fused layers need the native kernels; ask available() first"
    return module


def _norm(module: Any, norm: FusedNorm) -> Any:
    return module.FusedNorm.make(norm.weight, norm.eps, norm.offset)


def _linear(module: Any, linear: FusedLinear) -> Any:
    count = linear.weight.shape[0] - linear.first if linear.count is None else linear.count
    return module.FusedLinear.make(
        linear.weight,
        linear.scales,
        linear.biases,
        linear.bias,
        linear.mode,
        linear.bits,
        linear.group_size,
        linear.interleaved,
        linear.first,
        count,
    )


def _layer(module: Any, layer: FusedLayer) -> Any:
    new = module.FusedLayer()
    for name, linear in zip("qkv", layer.qkv, strict=False):
        setattr(new, name, _linear(module, linear))
    new.out, new.up, new.down = (_linear(module, w) for w in (layer.out, layer.up, layer.down))
    if layer.gate is not None:
        new.gate = _linear(module, layer.gate)
    for name in ("pre_mixer", "post_mixer", "pre_feed_forward", "post_feed_forward", "q_norm", "k_norm"):
        norm = getattr(layer, name)
        if norm is not None:
            setattr(new, name, _norm(module, norm))
    new.heads, new.kv_heads, new.head_dim = layer.num_heads, layer.num_kv_heads, layer.head_dim
    new.scale, new.softcap, new.residual_scale = layer.scale, layer.softcap or 0.0, layer.residual_scale
    new.qk_norm_full = layer.qk_norm_full
    new.set_act(NATIVE_NAMES[layer.act])
    if layer.sinks is not None:
        new.set_sinks(layer.sinks)
    if layer.rope is not None:
        new.set_rope(layer.rope.inverse(), layer.rope.scale, layer.rope.traditional)
    return new
