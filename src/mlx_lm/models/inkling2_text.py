"""Inkling 2: Inkling with a choice of earlier layers' sums before every branch, and limits in place of norms.

Source: https://huggingface.co/thinkingmachines/Inkling-2-Small-MXFP8.
"""

import re
from functools import partial
from typing import Any

import mlx.core as mx
from mlx import nn

from .. import kernels
from ..nn import AttentionOptions, LayerNames, Linear, RMSNorm
from ..nn.conv import after_tail
from ..nn.mlp import GatedActivation
from ..nn.relative import Heads, RelativeAttention, RelativeOptions, ResidualConv, Sources
from ..state import ArraySlot, LayerState, RecurrentSpec, StateSpec, part
from . import inkling_text
from .parts import DenseModel, NormedBackbone, PassingBackbone
from .weights import Rename, Weights, rename_parts


class ModelArgs(inkling_text.ModelArgs):
    aliases = {
        **{k: v for k, v in inkling_text.ModelArgs.aliases.items() if k != "embedding_multiplier"},
        "intermediate_size": "moe_intermediate_size",
        "dense_intermediate_size": "intermediate_size",
        "routed_scaling_factor": "route_scale",
    }
    fixed = {
        **inkling_text.ModelArgs.fixed, "scoring_func": ("sigmoid",), "hidden_act": ("silu",),
        "first_k_dense_replace": (0,),
    }  # fmt: skip
    positive = (
        *inkling_text.ModelArgs.positive, "qk_l2_clip_threshold", "rel_l2_clip_threshold", "mlp_gate_softcap",
        "n_layers_per_attn_res_block", "mlp_up_softcap", "final_logit_softcapping",
    )  # fmt: skip
    feed_forward_kinds = ("sparse",)
    max_position_embeddings: int = 1048576
    unpadded_vocab_size: int | None = 200058
    swa_num_attention_heads: int = 48
    swa_num_key_value_heads: int = 8
    sliding_window: int | None = 1024
    log_scaling_n_floor: int | None = 128000
    moe_intermediate_size: int = 2304
    n_routed_experts: int = 384
    num_experts_per_tok: int = 8
    qk_l2_clip_threshold: float = 22.627416997969522
    rel_l2_clip_threshold: float = 8.0
    n_layers_per_attn_res_block: int = 6
    mlp_gate_softcap: float = 4.0
    mlp_up_softcap: float = 25.0
    final_logit_softcapping: float = 30.0


class DynamicConv(nn.Module):
    """A convolution whose weights are a sum of learned ones and of some that a token makes for each head."""

    def __init__(self, hidden_size: int, heads: int, channels: int, kernel: int):
        super().__init__()
        self.static_weight = mx.zeros((kernel, channels))  # of the token itself first
        self.weight_proj = Linear(hidden_size, heads * kernel, bias=False)
        self._heads = heads

    def state_spec(self) -> StateSpec:
        """What the layer keeps for a sequence."""
        kernel, channels = self.static_weight.shape
        return RecurrentSpec((ArraySlot((kernel - 1, channels)),))

    def __call__(self, x: mx.array, source: mx.array, state: LayerState) -> mx.array:
        """x (B, L, C); each token's own weights come from `source` (B, L, D)."""
        kernel, length = self.static_weight.shape[0], x.shape[1]
        padded = after_tail(x, kernel - 1, state)
        own = mx.unflatten(self.weight_proj(source), -1, (self._heads, 1, kernel))
        total = x
        for back in range(kernel):
            start = kernel - 1 - back
            weights = mx.unflatten(self.static_weight[back], 0, (self._heads, -1)) + own[..., back]
            total = total + padded[:, start : start + length] * weights.flatten(2)
        return total * (2 * kernel + 1) ** -0.5


class Limit(nn.Module):
    """Heads (B, H, L, D), after a learned scale where there is one, at most `threshold` long."""

    def __init__(self, threshold: float, shape: tuple[int, int] | None = None):
        super().__init__()
        self._threshold = threshold
        if shape is not None:
            self.scale = mx.ones(shape)

    def __call__(self, x: mx.array) -> mx.array:
        y = x.astype(mx.float32)
        y = y * self.scale[:, None] if "scale" in self else y
        length = mx.linalg.norm(y, axis=-1, keepdims=True)
        return (y * mx.minimum(self._threshold / (length + 1e-6), 1)).astype(x.dtype)


class Attention(RelativeAttention):
    """Queries and keys are limited, values have a norm, every token a sink and a gate for each head."""

    def __init__(self, options: AttentionOptions, relative: RelativeOptions, args: ModelArgs):
        super().__init__(options, relative)
        o, self._eps = options, args.rms_norm_eps
        self.gate_proj = Linear(o.hidden_size, o.num_heads * o.head_dim, bias=False)
        self.sink_proj = Linear(o.hidden_size, o.num_heads, bias=False)
        self.q_l2_clip = Limit(args.qk_l2_clip_threshold, (o.num_heads, o.head_dim))
        self.k_l2_clip = Limit(args.qk_l2_clip_threshold)
        self.rel_l2_clip = Limit(args.rel_l2_clip_threshold, (o.num_heads, relative.dims))
        sizes = o.num_kv_heads * o.head_dim, relative.kernel
        self._dynamic = o.window is None
        for name in ("k_sconv", "v_sconv"):
            dynamic = DynamicConv(o.hidden_size, o.num_kv_heads, *sizes)
            self[name] = dynamic if self._dynamic else ResidualConv(*sizes, (relative.kernel + 1) ** -0.5)

    def _convolved(self, name: str, source: mx.array, state: LayerState) -> mx.array:
        if not self._dynamic:
            return super()._convolved(name, source, state)
        return self[f"{name}_sconv"](self[f"{name}_proj"](source), source, state)

    def _heads(self, x: mx.array, sources: Sources, states: tuple[LayerState, LayerState]) -> Heads:
        queries, keys, values, relative = super()._heads(x, sources, states)
        values = kernels.rms_norm(values, None, self._eps)
        return self.q_l2_clip(queries), self.k_l2_clip(keys), values, self.rel_l2_clip(relative)

    def _sinks(self, x: mx.array) -> mx.array | None:
        return self.sink_proj(x).transpose(0, 2, 1)

    def _out(self, out: mx.array, x: mx.array) -> mx.array:
        return self.o_proj(out * mx.sigmoid(self.gate_proj(x)))


class Choice(nn.Module):
    """Attention of learned queries to sums (B, L, D) of layers: one result for each query."""

    def __init__(self, width: int, count: int = 1):
        super().__init__()
        self.query = mx.zeros((width,) if count == 1 else (count, width))

    def __call__(self, blocks: list[mx.array]) -> list[mx.array]:
        states = kernels.rms_norm(mx.stack(blocks, axis=2), None, 1e-6)  # (B, L, N, D)
        queries = self.query.reshape(-1, states.shape[-1]) * states.shape[-1] ** -0.5
        weights = mx.softmax((states @ queries.T).astype(mx.float32), axis=2).astype(states.dtype)
        return [(states * weights[..., i : i + 1]).sum(axis=2) for i in range(queries.shape[0])]


class Layer(inkling_text.ConvolvedLayer):
    """Branches read a choice of earlier blocks' sums; a layer at a boundary starts a new sum."""

    def add(self, args: Any, index: int) -> None:
        width, slides = args.hidden_size, args.window(index) is not None
        self.boundary = index % args.n_layers_per_attn_res_block == 0
        for name in ("attn_sconv", "mlp_sconv"):
            self[name] = ResidualConv(width, args.conv_kernel_size, (args.conv_kernel_size + 1) ** -0.5)
        if index:
            self.attention_input = Choice(width, 1 if slides else 3)
        self.mlp_input = Choice(width)
        for name in () if slides else ("q_input_layernorm", "k_input_layernorm", "v_input_layernorm"):
            self[name] = RMSNorm(width, args.rms_norm_eps)

    def pass_on(self, x: mx.array, state: LayerState, blocks: Any) -> tuple[mx.array, list[mx.array]]:
        """The sum of the present block (B, L, D) after this layer, and those of the blocks before it, None at first."""
        single = "input_layernorm" in self
        names = ["input_layernorm"] if single else [f"{name}_input_layernorm" for name in "qkv"]
        inputs = self["attention_input"]([*blocks, x]) if "attention_input" in self else [x] * len(names)
        first, *rest = (self[name](h) for name, h in zip(names, inputs, strict=True))
        h = self["self_attn"](first, part(state, 0), tuple(rest) or None)
        h = self["attn_sconv"](h, part(state, 1))
        blocks, x = ([*(blocks or ()), x], h) if self.boundary else (blocks, x + h)
        (h,) = self["mlp_input"]([*blocks, x])
        return x + self["mlp_sconv"](self["mlp"](self["post_attention_layernorm"](h)), part(state, 2)), blocks


def capped(gate: mx.array, up: mx.array, *, linear: float, above: float) -> mx.array:
    return linear * mx.tanh(gate / linear) * mx.sigmoid(gate) * (above * mx.tanh(up / above))


class BlockBackbone(PassingBackbone, NormedBackbone):
    def __init__(self, model: Any, args: Any):
        super().__init__(model, args)
        self.final_input = Choice(args.hidden_size)

    def end(self, h: mx.array, passed: Any) -> mx.array:
        (h,) = self.final_input([*passed, h])
        return super().end(h, passed)


def _chosen_by_layer(weights: Weights) -> Weights:
    """Published queries stand together; the first layer has none for its attention."""

    def place(match: re.Match[str]) -> str:
        after, kind = (1, "attention") if match[1] == "attn" else (0, "mlp")
        return f"layers.{int(match[2]) + after}.{kind}_input.query"

    return {re.sub(r"attn_res\.(attn|mlp)_queries\.(\d+)$", place, k): v for k, v in weights.items()}


class Model(inkling_text.Model):
    backbone_type = BlockBackbone
    layer_type = Layer
    attention = {"rope": None, "scale": None}
    qk_norm = False
    moe_options = {"shared": 0, "correction": True}
    routing_options = {"score": "sigmoid", "epsilon": 1e-20}
    experts = DenseModel.experts
    rules = (
        _chosen_by_layer,
        Rename(r"\.attn_res\.output_query$", ".final_input.query"),
        *rename_parts({"post_attention_convolution": "attn_sconv", "post_mlp_convolution": "mlp_sconv"}),
        Rename(r"\.([qkv])_input_norm\.", r".\1_input_layernorm."),
        *rename_parts({"attn.gate_attn": "self_attn.gate_proj", "attn.attn_sink_proj": "self_attn.sink_proj"}),
        Rename(r"sconv\.static_w$", "sconv.static_weight"),
        Rename(r"sconv\.weight_proj$", "sconv.weight_proj.weight"),
        *inkling_text.Model.rules,
    )

    def logit_scale(self, args: Any) -> float:
        return 1.0

    def mixer(self, args: Any, index: int) -> nn.Module:
        return Attention(self.attention_options(args, index), args.relative(index), args)

    def activation(self, args: Any) -> GatedActivation:
        return partial(capped, linear=args.mlp_gate_softcap, above=args.mlp_up_softcap)

    def names_at(self, args: Any, index: int) -> LayerNames:
        return LayerNames(pre_mixer=None if args.window(index) is None else "input_layernorm")
