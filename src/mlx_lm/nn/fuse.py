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
from itertools import groupby
from operator import is_
from typing import Any, TypeAlias

import mlx.core as mx
import mlx.nn as nn

from ..kernels import fused
from ..kernels.activations import NATIVE_NAMES
from ..state import AttentionState, LayerState, State, in_place
from .attention import Attention
from .decoder import DecoderLayer
from .interleaved import interleave_weights, packing, prefer_large_pages
from .linear import Linear, QuantizedLinear
from .mlp import MLP, GatedMLP
from .norm import RMSNorm
from .rope import Rope

__all__ = ["LayerRunner"]

_FLOATS = (mx.float32, mx.bfloat16, mx.float16)
_SHORT = 8  # tokens in a step that repeats: decoding or checking a draft
_BRANCHES = ("mixer", "feed_forward")

_Memory: TypeAlias = tuple[dict[str, Any], int]
"""Memory of keys and values, tokens that it holds, windows, tokens kept beside them and the nodes that wrote last, as
`fused.run_layers` takes them; and the tokens that find room."""


@dataclass(frozen=True)
class _Segment:
    """Layers [start, stop); plan None: one by one."""

    start: int
    stop: int
    plan: Any = None
    layers: tuple[fused.FusedLayer, ...] = ()
    hidden: int = 0
    final: fused.FusedNorm | None = None  # the final norm, where it is part of the plan
    inside: bool = False  # of a run, which goes on after it
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
        self._singles: dict[int, _Segment] = {}
        self._last: dict[int, tuple[mx.array, int]] = {}  # what a segment's last step gave, and the room that it left

    def __deepcopy__(self, memo: dict[int, Any]) -> "LayerRunner":
        return LayerRunner()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return LayerRunner, ()

    def __call__(
        self, layers: list[nn.Module], norm: nn.Module, x: mx.array, cache: Sequence[LayerState] | None
    ) -> mx.array:
        """x (B, L, D) -> normalized hidden states (B, L, D)."""
        if cache is None or not self.usable(x):
            return norm(_one_by_one(layers, x, cache))
        self.prepare(layers, norm, x)
        normed = False
        for segment in self._segments:
            y = None
            if segment.plan is not None:
                y = self.step(segment, x, cache[segment.start : segment.stop])
            if y is None:
                x = _one_by_one(layers[segment.start : segment.stop], x, cache[segment.start : segment.stop])
            else:
                x, normed = y, segment.final is not None
        return x if normed else norm(x)

    @staticmethod
    def usable(x: mx.array) -> bool:
        """Whether fused layers can read x."""
        return fused.available() and x.dtype in _FLOATS and x.ndim == 3 and x.size > 0 and not fused.traced(x)

    def prepare(self, layers: list[nn.Module], norm: nn.Module, x: mx.array) -> None:
        """Looks at the layers, unless they are as they were."""
        known = len(layers) == len(self._layers) and all(map(is_, layers, self._layers))
        if self.usable(x) and (self._watch is None or not known or not self._watch.unchanged()):
            self._look(layers, norm)

    def segment_at(self, index: int) -> _Segment | None:
        """The fused run that layer `index` is in."""
        found = next((s for s in self._segments if s.start <= index < s.stop), None)
        return None if found is None or found.plan is None else found

    def step(
        self, segment: _Segment, x: mx.array, cache: Sequence[LayerState], part_of: mx.Dtype | None = None
    ) -> mx.array | None:
        """One fused step, or None when a state is not plain attention of one kind for all layers.

        `part_of` is the result's type of the run that the segment is a layer of: inside a run numbers are float32.
        """
        rows = _states_of(x, cache)
        if rows is None:
            return None
        flat, length = [state for states in rows for state in states], x.shape[1]
        dtype = self._result_type((x.dtype, *segment.dtypes)) if part_of is None else part_of
        batch = x.shape[0] // len(rows[0]) or 1  # rows in a state
        asked = None if part_of is not None else self._continued(segment, flat, length)
        asked = asked or self._asked(segment, rows, length, dtype, batch)
        if asked is None:
            return None
        memory, left = asked
        positions = [s.offset for s in rows[0] for _ in range(batch)]
        result = mx.float32 if segment.inside else dtype
        y = fused.run_layers(segment.plan, x, positions=positions, dtype=result, **memory)
        in_place.wrote(flat, length, y)
        if part_of is not None:
            return y
        if length <= _SHORT:
            self._last[segment.start] = (y, left - length)
        else:
            self._last.pop(segment.start, None)  # y is large, and a prompt's pieces are few
        return y

    def reserve(self, segment: _Segment, x: mx.array, cache: Sequence[LayerState]) -> mx.Dtype | None:
        """Gets the memory that a step would write; the type of its result, None where there is no such step."""
        rows = None if segment.plan is None else _states_of(x, cache)
        dtype = self._result_type((x.dtype, *segment.dtypes))
        batch = 1 if rows is None else x.shape[0] // len(rows[0]) or 1
        asked = None if rows is None else self._asked(segment, rows, x.shape[1], dtype, batch)
        return None if asked is None else dtype

    def single(self, segment: _Segment, index: int) -> _Segment:
        """Layer `index` of a segment as one of its own."""
        if index not in self._singles:
            at, last = index - segment.start, index + 1 == segment.stop
            plan = fused.make_plan(segment.layers[at : at + 1], segment.hidden, segment.final if last else None)
            self._singles[index] = replace(
                segment,
                start=index,
                stop=index + 1,
                plan=plan,
                inside=not last,
                shapes=segment.shapes[at : at + 1],
                windows=segment.windows[at : at + 1],
            )
        return self._singles[index]

    def _continued(self, segment: _Segment, states: Sequence[Any], length: int) -> _Memory | None:
        """As `_asked` where nobody has touched the states since this segment's last step."""
        node, left = self._last.get(segment.start, (None, 0))
        if node is None or length > left or not in_place.untouched(states, node):
            return None
        keys, values, lengths = in_place.held_tokens(states)
        windows = [window or 0 for window in segment.windows for _ in range(len(states) // len(segment.windows))]
        memory = {"keys": keys, "values": values, "lengths": lengths, "windows": windows, "keeps": [0] * len(states)}
        return memory | {"after": [node]}, left

    def _asked(
        self, segment: _Segment, rows: Sequence[Sequence[Any]], length: int, dtype: mx.Dtype, batch: int
    ) -> _Memory | None:
        """Memory for `length` more keys and values; None when a state is not plain attention."""
        if not all(isinstance(s, AttentionState) and s.bits is None for states in rows for s in states):
            return None
        shapes = [(batch, heads, length, head_dim) for heads, head_dim in segment.shapes]
        # one allocation for the layers of a sequence, which grow together and end together
        memories = [
            fused.token_memory(sum(state.lacking(shape, dtype) for state, shape in zip(states, shapes, strict=True)))
            for states in zip(*rows, strict=True)
        ]
        found, after = [], {}
        for states, shape, window in zip(rows, shapes, segment.windows, strict=True):
            for state, memory in zip(states, memories, strict=True):
                keys, values, written = state.writable(shape, dtype, memory)
                inner = window is not None and (state.window is None or state.window > window)
                limits = (window, 0) if inner else (state.window or 0, state.keep)
                found.append((keys, values, state.size(), *limits))
                after |= {id(node): node for node in written}
        for memory in memories:
            if memory is not None:
                memory.settle()
        names = ("keys", "values", "lengths", "windows", "keeps")
        asked = dict(zip(names, map(list, zip(*found, strict=True)), strict=True), after=list(after.values()))
        return asked, in_place.room(asked["keys"], asked["lengths"])

    def _result_type(self, dtypes: tuple[mx.Dtype, ...]) -> mx.Dtype:
        if dtypes not in self._results:
            self._results[dtypes] = sum((mx.zeros((), d) for d in dtypes[1:]), mx.zeros((), dtypes[0])).dtype
        return self._results[dtypes]

    # Inspection.

    def _look(self, layers: list[nn.Module], norm: nn.Module) -> None:
        described = [self._describe(layer) for layer in layers]
        for layer, fusible in zip(layers, described, strict=True):
            modules = [] if fusible else layer.modules()
            arrays = {id(m[name]) for m in modules for name in getattr(m, "read_as_arrays", ()) if name in m}
            for module in modules:
                if hasattr(type(module), "interleaved") and id(module) not in arrays:
                    interleave_weights(module)
        prefer_large_pages(module for layer in layers for module in layer.modules())
        self._segments, self._singles, self._layers, start = [], {}, list(layers), 0
        for fusible, run in groupby(described, lambda layer: layer is not None):
            stop = start + len(list(run))
            segment = self._segment(layers, norm, described, slice(start, stop)) if fusible else _Segment(start, stop)
            self._segments.append(segment)
            start = stop
        self._watch = fused.new_watch()
        for module in (inner for outer in (*layers, norm) for inner in outer.modules()):
            for key, value in module.items():
                if isinstance(value, mx.array | nn.Module):
                    self._watch.add(module, key, value)

    @staticmethod
    def _segment(layers: list[Any], norm: nn.Module, described: Sequence[Any], which: slice) -> _Segment:
        chosen: list[fused.FusedLayer] = list(described[which])
        hidden = chosen[0].down.weight.shape[0]
        final = _norm(norm) if which.stop == len(layers) else None
        dtypes = {d for layer in chosen for d in _dtypes(layer)} | ({final.weight.dtype} if final else set())
        return _Segment(
            which.start,
            which.stop,
            fused.make_plan(chosen, hidden, final),
            tuple(chosen),
            hidden,
            final,
            False,
            tuple(sorted(dtypes, key=str)),
            tuple((layer.num_kv_heads, layer.head_dim) for layer in chosen),
            tuple(layer[layer._names.mixer]._options.window for layer in layers[which]),
        )

    def _describe(self, layer: nn.Module) -> fused.FusedLayer | None:
        """The layer as arrays and numbers, or None when it is not one that the kernels know."""
        if not isinstance(layer, DecoderLayer) or not _same(layer, DecoderLayer, "_mix", "_feed") or layer.parallel:
            return None
        n = layer._names
        mixer, mlp = layer.get(n.mixer), layer.get(n.feed_forward)
        if not isinstance(mixer, Attention) or not _same(mixer, Attention, "_project", "_place", "_attend"):
            return None
        norms = {kind: layer[name] for kind, name in vars(n).items() if kind not in _BRANCHES and name in layer}
        o, rope = mixer._options, mixer._options.rope
        if o.qk_norm is not None:
            norms |= {"q_norm": mixer[mixer.q_norm_name], "k_norm": mixer[mixer.k_norm_name]}
        if any(type(norm) is not RMSNorm or fused.traced(norm.weight) for norm in norms.values()):
            return None
        if o.gated or o.clip is not None or (rope is not None and type(rope) is not Rope) or "sinks" in mixer:
            return None
        parts = self._feed_forward(mlp)
        names = (mixer.qkv_name,) if o.fused else (mixer.q_name, mixer.k_name, mixer.v_name)
        qkv = [self._linear(mixer[name]) for name in names]
        out = self._linear(mixer[mixer.out_name])
        if parts is None or out is None or any(w is None for w in qkv):
            return None
        same = ("num_heads", "num_kv_heads", "head_dim", "softcap", "qk_norm_full")
        return fused.FusedLayer(
            qkv=tuple(w for w in qkv if w is not None),
            out=out,
            scale=mixer.scale,
            rope=rope and fused.FusedRope(rope.dims, rope.freqs, rope.base, rope.scale, rope.traditional),
            residual_scale=layer.residual_scale,
            **parts,
            **{kind: _norm(norm) for kind, norm in norms.items()},
            **{name: getattr(o, name) for name in same},
        )

    def _feed_forward(self, mlp: Any) -> dict[str, Any] | None:
        """Gate, up, down and activation."""
        gated = isinstance(mlp, GatedMLP) and _same(mlp, GatedMLP)
        if not gated and not (isinstance(mlp, MLP) and _same(mlp, MLP)):
            return None
        gate, down = None, self._linear(mlp[mlp.down_name])
        if gated and mlp.fused_name in mlp:
            both = self._linear(mlp[mlp.fused_name])
            half = 0 if both is None else both.weight.shape[0] // 2
            if both is None or (both.interleaved and half % 16):
                return None
            gate, up = (replace(both, first=first, count=half) for first in (0, half))
        else:
            gate, up = self._linear(mlp[mlp.gate_name]) if gated else None, self._linear(mlp[mlp.up_name])
        known = isinstance(mlp.act, str) and mlp.act in NATIVE_NAMES
        if up is None or down is None or (gated and gate is None) or not known:
            return None
        return {"gate": gate, "up": up, "down": down, "act": mlp.act}

    def _linear(self, linear: Any) -> fused.FusedLinear | None:
        packed = type(linear) in (QuantizedLinear, nn.QuantizedLinear)
        arrays = {name: linear[name] for name in ("weight", "scales", "biases", "bias") if name in linear}
        if not (packed or type(linear) in (Linear, nn.Linear)) or any(map(fused.traced, arrays.values())):
            return None
        bias = arrays.pop("bias", None)
        if not packed:
            known = arrays["weight"].dtype in _FLOATS
        elif linear.mode == "affine":
            known = "biases" in arrays and arrays["biases"].dtype == arrays["scales"].dtype in _FLOATS
        else:
            known = linear.mode in ("mxfp4", "mxfp8", "nvfp4")
        if not known:
            return None
        regrouped = interleave_weights(linear)
        parts = tuple(map(mx.contiguous, arrays.values())) if regrouped is None else regrouped.parts
        mx.eval(parts)
        kind = packing(linear) if packed else {}
        return fused.FusedLinear(*parts, bias=bias, interleaved=regrouped is not None, **kind)


def _states_of(x: mx.array, cache: Sequence[LayerState]) -> list[tuple[Any, ...]] | None:
    """Of each layer: one for each row of x, or one for all; None where that is not so."""
    if isinstance(cache[0], State):
        return [(state,) for state in cache]
    rows = [tuple(states) for states in cache]  # type: ignore[arg-type]
    return rows if all(len(states) == x.shape[0] for states in rows) else None


def _one_by_one(layers: Sequence[nn.Module], x: mx.array, cache: Sequence[LayerState] | None) -> mx.array:
    for i, layer in enumerate(layers):
        x = layer(x, None if cache is None else cache[i])
    return x


def _same(module: nn.Module, base: type, *names: str) -> bool:
    """Whether the module computes as `base` does: a subclass that only renames parameters does."""
    return all(getattr(type(module), name) is getattr(base, name) for name in ("__call__", *names))


def _norm(norm: nn.Module) -> fused.FusedNorm | None:
    return fused.FusedNorm(norm.weight, norm.eps, norm.offset) if type(norm) is RMSNorm else None


def _dtypes(layer: fused.FusedLayer) -> set[mx.Dtype]:
    linears = (*layer.qkv, layer.out, layer.up, layer.down)
    kinds = {w.weight.dtype if w.scales is None else w.scales.dtype for w in linears}
    norms = (layer.pre_mixer, layer.post_mixer, layer.pre_feed_forward, layer.post_feed_forward)
    return {d for d in kinds | {n.weight.dtype for n in norms if n is not None} if d in _FLOATS}
