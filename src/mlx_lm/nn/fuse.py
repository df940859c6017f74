"""Runs decoder layers, fused where the native kernels can, one by one where they cannot.

A `LayerRunner` inspects the layers once: consecutive plain decoder layers (grouped-query attention with an ordinary
rope, a feed-forward with or without a gate, root-mean-square norms, dense or packed linear layers) become one node
for each step; everything else (adapters, experts, other mixers, packed states, tracing, training) takes the ordinary
path. It looks again whenever a module or a weight was replaced. Numbers kept on modules (eps, scales) are read once.

Weights are kept regrouped for the kernels, of fused layers and of others (see `interleaved`): the modules' own arrays
become lazy inverses, so memory is not doubled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import is_
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..kernels import fused
from ..kernels.activations import NATIVE_NAMES
from ..state import AttentionState, LayerState, State, in_place
from .attention import Attention
from .decoder import DecoderLayer
from .interleaved import interleave_weights
from .linear import Linear, QuantizedLinear
from .mlp import MLP, GatedMLP
from .norm import RMSNorm
from .rope import Rope

__all__ = ["LayerRunner"]

_FLOATS = (mx.float32, mx.bfloat16, mx.float16)
_FEW = 256  # rows of a step that repeats: decoding, checking a draft, a piece of a prompt beside them


@dataclass(frozen=True)
class _Segment:
    """Layers [start, stop); plan None: one by one."""

    start: int
    stop: int
    plan: Any = None
    normed: bool = False  # the final norm is part of the plan
    dtypes: tuple[mx.Dtype, ...] = ()  # of the weights, which the result's type follows
    shapes: tuple[tuple[int, int], ...] = ()  # (num_kv_heads, head_dim) of each layer
    windows: tuple[int | None, ...] = ()


class LayerRunner:
    """Calls layers in order with their states, then the final norm. Belongs to one model."""

    def __init__(self) -> None:
        self._segments: list[_Segment] = []
        self._layers: list[nn.Module] = []
        self._watch: Any = None
        self._results: dict[tuple[mx.Dtype, ...], mx.Dtype] = {}
        self._last: dict[int, tuple[mx.array, int]] = {}  # what a segment's last step gave, and the room that it left

    def __deepcopy__(self, memo: dict[int, Any]) -> "LayerRunner":
        return LayerRunner()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return LayerRunner, ()

    def __call__(
        self, layers: list[nn.Module], norm: nn.Module, x: mx.array, cache: Sequence[LayerState] | None
    ) -> mx.array:
        """x (B, L, D) -> normalized hidden states (B, L, D)."""
        if cache is None or not self._usable(x):
            return norm(_one_by_one(layers, x, cache))
        self._know(layers, norm)
        normed = False
        for segment in self._segments:
            y = None
            if segment.plan is not None:
                y = self._step(segment, [(x, cache[segment.start : segment.stop])])
            if y is None:
                x = _one_by_one(layers[segment.start : segment.stop], x, cache[segment.start : segment.stop])
            else:
                x, normed = y, segment.normed
        return x if normed else norm(x)

    def together(
        self, layers: list[nn.Module], norm: nn.Module, parts: Sequence[tuple[mx.array, Sequence[LayerState]]]
    ) -> list[mx.array] | None:
        """Calls for several x (B, L, D) and their states, with the weights read once; None where that cannot be."""
        if not all(self._usable(x) for x, _ in parts):
            return None
        self._know(layers, norm)
        segment = self._segments[0]
        if len(self._segments) > 1 or segment.plan is None or not segment.normed:
            return None
        y = self._step(segment, parts)
        if y is None:
            return None
        ends = list(accumulate(x.shape[0] * x.shape[1] for x, _ in parts))
        return [own.reshape(x.shape) for own, (x, _) in zip(mx.split(y, ends[:-1], axis=1), parts, strict=True)]

    @staticmethod
    def _usable(x: mx.array) -> bool:
        return fused.available() and x.dtype in _FLOATS and x.ndim == 3 and x.size > 0 and not fused.traced(x)

    def _know(self, layers: list[nn.Module], norm: nn.Module) -> None:
        known = len(layers) == len(self._layers) and all(map(is_, layers, self._layers))
        if self._watch is None or not known or not self._watch.unchanged():
            self._look(layers, norm)

    def _step(self, segment: _Segment, parts: Sequence[tuple[mx.array, Sequence[LayerState]]]) -> mx.array | None:
        """One fused step, or None when a state is not plain attention of one kind for all layers."""
        several = len(parts) > 1
        found = [rows for x, cache in parts if (rows := _states_of(x, cache, apart=several)) is not None]
        if len(found) < len(parts):
            return None
        rows = [sum(states, ()) for states in zip(*found, strict=True)]  # of each layer, one for each sequence
        x = mx.concatenate([x.reshape(1, -1, x.shape[2]) for x, _ in parts], axis=1) if several else parts[0][0]
        tokens = [x.shape[1] for (x, _), states in zip(parts, found, strict=True) for _ in states[0]]
        flat = [state for states in rows for state in states]
        dtype = self._result_type((x.dtype, *segment.dtypes))
        batch = x.shape[0] // len(rows[0]) or 1  # rows in a state
        memory = self._continued(segment, flat, max(tokens)) or self._asked(segment, rows, tokens, dtype, batch)
        if memory is None:
            return None
        keys, values, lengths, windows, keeps, after, left = memory
        positions = [s.offset for s in rows[0] for _ in range(batch)]
        y = fused.run_layers(
            segment.plan,
            x,
            keys=keys,
            values=values,
            lengths=lengths,
            windows=windows,
            keeps=keeps,
            positions=positions,
            after=after,
            dtype=dtype,
            parts=[(x.shape[0], x.shape[1]) for x, _ in parts] if several else (),
        )
        in_place.wrote(flat, tokens, y)
        if y.shape[0] * y.shape[1] <= _FEW:
            self._last[segment.start] = (y, left - max(tokens))
        else:
            self._last.pop(segment.start, None)  # y is large, and a prompt's pieces are few
        return y

    def _continued(self, segment: _Segment, states: Sequence[Any], length: int) -> tuple[Any, ...] | None:
        """As `_asked` where nobody has touched the states since this segment's last step."""
        node, left = self._last.get(segment.start, (None, 0))
        if node is None or length > left or not in_place.untouched(states, node):
            return None
        keys, values, lengths = in_place.held_tokens(states)
        windows = [window or 0 for window in segment.windows for _ in range(len(states) // len(segment.windows))]
        return keys, values, lengths, windows, [0] * len(states), [node], left

    def _asked(
        self, segment: _Segment, rows: Sequence[Sequence[Any]], tokens: list[int], dtype: mx.Dtype, batch: int
    ) -> tuple[Any, ...] | None:
        """Memory for each sequence's next `tokens` keys and values, tokens that it holds, windows, tokens kept beside
        them, the nodes that wrote last and the tokens that find room; None when a state is not plain attention."""
        if not all(isinstance(s, AttentionState) and s.bits is None for states in rows for s in states):
            return None
        keys, values, lengths, windows, keeps = [], [], [], [], []
        after: dict[int, mx.array] = {}
        shapes = [[(batch, heads, count, head_dim) for count in tokens] for heads, head_dim in segment.shapes]
        # one allocation for the layers of a sequence, which grow together and end together
        memories = [
            fused.token_memory(sum(state.lacking(shape, dtype) for state, shape in zip(*column, strict=True)))
            for column in zip(zip(*rows, strict=True), zip(*shapes, strict=True), strict=True)
        ]
        for states, own, window in zip(rows, shapes, segment.windows, strict=True):
            for state, shape, memory in zip(states, own, memories, strict=True):
                k, v, written = state.writable(shape, dtype, memory)
                keys.append(k)
                values.append(v)
                lengths.append(state.size())
                inner = window is not None and (state.window is None or state.window > window)
                windows.append((window if inner else state.window) or 0)
                keeps.append(0 if inner else state.keep)
                for node in written:
                    after[id(node)] = node
        return keys, values, lengths, windows, keeps, list(after.values()), in_place.room(keys, lengths)

    def _result_type(self, dtypes: tuple[mx.Dtype, ...]) -> mx.Dtype:
        if dtypes not in self._results:
            self._results[dtypes] = sum((mx.zeros((), d) for d in dtypes[1:]), mx.zeros((), dtypes[0])).dtype
        return self._results[dtypes]

    # Inspection.

    def _look(self, layers: list[nn.Module], norm: nn.Module) -> None:
        described = [self._describe(layer) for layer in layers]
        for layer, fusible in zip(layers, described, strict=True):
            for module in () if fusible else layer.modules():
                if hasattr(type(module), "interleaved"):
                    interleave_weights(module)
        segments: list[_Segment] = []
        start = 0
        while start < len(layers):
            stop = start + 1
            while stop < len(layers) and (described[stop] is None) == (described[start] is None):
                stop += 1
            segments.append(self._segment(layers, norm, described, start, stop))
            start = stop
        self._segments, self._layers = segments, list(layers)
        self._watch = fused.new_watch()
        for module in (*layers, norm):
            _watch_all(self._watch, module)

    def _segment(
        self,
        layers: list[nn.Module],
        norm: nn.Module,
        described: list[fused.FusedLayer | None],
        start: int,
        stop: int,
    ) -> _Segment:
        chosen = [d for d in described[start:stop] if d is not None]
        if not chosen:
            return _Segment(start, stop)
        final = _norm(norm) if stop == len(layers) else None
        hidden = chosen[0].down.weight.shape[0]
        plan = fused.make_plan(chosen, hidden, final)
        dtypes = {d for layer in chosen for d in _dtypes(layer)}
        options = [_attention(layer)._options for layer in layers[start:stop]]
        return _Segment(
            start,
            stop,
            plan,
            final is not None,
            tuple(sorted(dtypes | ({final.weight.dtype} if final else set()), key=str)),
            tuple((layer.num_kv_heads, layer.head_dim) for layer in chosen),
            tuple(o.window for o in options),
        )

    def _describe(self, layer: nn.Module) -> fused.FusedLayer | None:
        """The layer as arrays and numbers, or None when it is not one that the kernels know."""
        if not isinstance(layer, DecoderLayer) or not _same(layer, DecoderLayer, "_mix", "_feed") or layer.parallel:
            return None
        n = layer._names
        mixer, mlp = layer.get(n.mixer), layer.get(n.feed_forward)
        if not isinstance(mixer, Attention) or not _same(mixer, Attention, "_project", "_place", "_attend"):
            return None
        norms = [layer.get(name or "") for name in n.norms()]
        o = mixer._options
        qk = [mixer[mixer.q_norm_name], mixer[mixer.k_norm_name]] if o.qk_norm is not None else [None, None]
        if any(m is not None and (type(m) is not RMSNorm or fused.traced(m.weight)) for m in (*norms, *qk)):
            return None
        if o.gated or o.clip is not None or (o.rope is not None and type(o.rope) is not Rope) or "sinks" in mixer:
            return None
        parts = self._feed_forward(mlp)
        names = (mixer.qkv_name,) if o.fused else (mixer.q_name, mixer.k_name, mixer.v_name)
        qkv = [self._linear(mixer[name]) for name in names]
        out = self._linear(mixer[mixer.out_name])
        if parts is None or out is None or any(w is None for w in qkv):
            return None
        gate, up, down, act = parts
        pre_mixer, post_mixer, pre_feed, post_feed = (None if m is None else _norm(m) for m in norms)
        q_norm, k_norm = (None if m is None else _norm(m) for m in qk)
        rope = o.rope
        return fused.FusedLayer(
            qkv=tuple(w for w in qkv if w is not None),
            out=out,
            up=up,
            down=down,
            gate=gate,
            act=act,
            num_heads=o.num_heads,
            num_kv_heads=o.num_kv_heads,
            head_dim=o.head_dim,
            scale=mixer.scale,
            softcap=o.softcap,
            rope=rope and fused.FusedRope(rope.dims, rope.freqs, rope.base, rope.scale, rope.traditional),
            residual_scale=layer.residual_scale,
            pre_mixer=pre_mixer,
            post_mixer=post_mixer,
            pre_feed_forward=pre_feed,
            post_feed_forward=post_feed,
            q_norm=q_norm,
            k_norm=k_norm,
            qk_norm_full=o.qk_norm_full,
        )

    def _feed_forward(
        self, mlp: nn.Module | None
    ) -> tuple[fused.FusedLinear | None, fused.FusedLinear, fused.FusedLinear, str] | None:
        """Gate, up, down and activation."""
        if isinstance(mlp, GatedMLP) and _same(mlp, GatedMLP):
            down = self._linear(mlp[mlp.down_name])
            if mlp.fused_name in mlp:
                both = self._linear(mlp[mlp.fused_name])
                half = 0 if both is None else both.weight.shape[0] // 2
                if both is None or (both.interleaved and half % 16):
                    return None
                gate, up = (_rows(both, first, half) for first in (0, half))
            else:
                gate, up = self._linear(mlp[mlp.gate_name]), self._linear(mlp[mlp.up_name])
            if gate is None:
                return None
        elif isinstance(mlp, MLP) and _same(mlp, MLP):
            gate, up, down = None, self._linear(mlp[mlp.up_name]), self._linear(mlp[mlp.down_name])
        else:
            return None
        act = mlp.act
        if up is None or down is None or not isinstance(act, str) or act not in NATIVE_NAMES:
            return None
        return gate, up, down, act

    def _linear(self, linear: nn.Module) -> fused.FusedLinear | None:
        arrays = [linear[name] for name in ("weight", "scales", "biases", "bias") if name in linear]
        if any(fused.traced(a) for a in arrays):
            return None
        bias = linear.get("bias")
        if type(linear) in (Linear, nn.Linear):
            weight = linear["weight"]
            if weight.dtype not in _FLOATS:
                return None
            regrouped = interleave_weights(linear)
            weight = mx.contiguous(weight) if regrouped is None else regrouped.parts[0]
            mx.eval(weight)
            return fused.FusedLinear(weight, bias=bias, interleaved=regrouped is not None)
        if type(linear) not in (QuantizedLinear, nn.QuantizedLinear):
            return None
        scales, biases = linear["scales"], linear.get("biases")
        if linear.mode == "affine":
            if biases is None or scales.dtype not in _FLOATS or biases.dtype != scales.dtype:
                return None
        elif linear.mode not in ("mxfp4", "mxfp8", "nvfp4"):
            return None
        regrouped = interleave_weights(linear)
        if regrouped is None:
            parts = tuple(mx.contiguous(linear[name]) for name in ("weight", "scales", "biases") if name in linear)
            mx.eval(parts)
        else:
            parts = regrouped.parts
        return fused.FusedLinear(
            parts[0],
            parts[1],
            parts[2] if len(parts) > 2 else None,
            bias,
            linear.mode,
            int(linear.bits),  # type: ignore[arg-type]
            int(linear.group_size),  # type: ignore[arg-type]
            regrouped is not None,
        )


def _states_of(x: mx.array, cache: Sequence[LayerState], *, apart: bool) -> list[tuple[Any, ...]] | None:
    """Of each layer: one for each row of x, or unless `apart` one for all; None where that is not so."""
    if isinstance(cache[0], State):
        return [(state,) for state in cache] if x.shape[0] == 1 or not apart else None
    rows = [tuple(states) for states in cache]  # type: ignore[arg-type]
    return rows if all(len(states) == x.shape[0] for states in rows) else None


def _one_by_one(layers: Sequence[nn.Module], x: mx.array, cache: Sequence[LayerState] | None) -> mx.array:
    for i, layer in enumerate(layers):
        x = layer(x, None if cache is None else cache[i])
    return x


def _same(module: nn.Module, base: type, *names: str) -> bool:
    """Whether the module computes as `base` does: a subclass that only renames parameters does."""
    return all(getattr(type(module), name) is getattr(base, name) for name in ("__call__", *names))


def _attention(layer: nn.Module) -> Any:
    return layer[layer._names.mixer]  # type: ignore[index]


def _norm(norm: nn.Module) -> fused.FusedNorm | None:
    return fused.FusedNorm(norm.weight, norm.eps, norm.offset) if type(norm) is RMSNorm else None


def _rows(linear: fused.FusedLinear, first: int, count: int) -> fused.FusedLinear:
    return replace(linear, first=first, count=count)


def _dtypes(layer: fused.FusedLayer) -> set[mx.Dtype]:
    linears = (*layer.qkv, layer.out, layer.up, layer.down)
    kinds = {w.weight.dtype if w.scales is None else w.scales.dtype for w in linears}
    norms = (layer.pre_mixer, layer.post_mixer, layer.pre_feed_forward, layer.post_feed_forward)
    return {d for d in kinds | {n.weight.dtype for n in norms if n is not None} if d in _FLOATS}


def _watch_all(watch: Any, value: Any) -> None:
    if isinstance(value, nn.Module):
        for key, inner in value.items():
            if isinstance(inner, mx.array | nn.Module):
                watch.add(value, key, inner)
            _watch_all(watch, inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _watch_all(watch, inner)
