"""ZAYA: attention over convolved queries and keys, one expert a token, routers that hear the layer before.

Sources: https://arxiv.org/abs/2510.04476 (compressed convolutional attention), https://arxiv.org/abs/2605.05365.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import mlx.core as mx
from mlx import nn

from .. import kernels
from ..errors import ConfigError
from ..nn import AttentionOptions, CausalConv, Linear, RMSNorm, Routing, SwitchGLU, make_rope, route
from ..state import (
    ArraySlot,
    KVSpec,
    LayerState,
    ListSpec,
    RecurrentSpec,
    StateSpec,
    attend_states,
    gather_slot,
    offsets,
    part,
    scatter_slots,
)
from .base import Backbone, CausalLM, layer_state
from .config import DecoderArgs
from .weights import Rule, Transform, conv_layout, expert_rules

_ROPES = {"hybrid": 5000000.0, "hybrid_sliding": 10000.0}


@dataclass
class ModelArgs(DecoderArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = field(default=1e-5, kw_only=True)
    max_position_embeddings: int = field(default=131072, kw_only=True)
    tie_word_embeddings: bool = field(default=True, kw_only=True)
    partial_rotary_factor: float = 0.5
    sliding_window: int | None = None
    layer_types: list[str] | None = None
    attention_bias: bool = False
    lm_head_bias: bool = False
    moe_intermediate_size: int = 2048
    num_experts: int = 16
    num_experts_per_tok: int = 1
    router_hidden_size: int = 256
    cca_time0: int = 2
    cca_time1: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.layer_types = self.layer_types or ["hybrid"] * self.num_hidden_layers
        if self.rope_by_layer_type is None:
            partial = {"partial_rotary_factor": self.partial_rotary_factor}
            self.rope_by_layer_type = {kind: {"rope_theta": theta, **partial} for kind, theta in _ROPES.items()}
        if len(self.layer_types) != self.num_hidden_layers or not set(self.layer_types) <= set(_ROPES):
            raise ConfigError(f"config.json: layer_types must have {sorted(_ROPES)} for each layer.")
        if "hybrid_sliding" in self.layer_types and (self.sliding_window or 0) < 1:
            raise ConfigError("config.json: sliding_window is needed for layer_types with 'hybrid_sliding'.")
        if self.num_experts_per_tok != 1:
            raise ConfigError(f"config.json: num_experts_per_tok={self.num_experts_per_tok} is not 1.")
        if min(self.cca_time0, self.cca_time1, self.router_hidden_size) < 1 or self.cca_time0 + self.cca_time1 < 3:
            raise ConfigError("config.json: cca_time0, cca_time1 and router_hidden_size must be positive.")

    def window(self, index: int) -> int | None:
        return self.sliding_window if self.layer_types and self.layer_types[index] == "hybrid_sliding" else None


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

    def __init__(self, o: AttentionOptions, kernels: tuple[int, int]):
        super().__init__()
        self._options, self._late = o, kernels[0] + kernels[1] - 2
        q_size, kv_size = o.num_heads * o.head_dim, o.num_kv_heads * o.head_dim
        self.q_proj = Linear(o.hidden_size, q_size, bias=o.bias)
        self.k_proj = Linear(o.hidden_size, kv_size, bias=o.bias)
        self.v_proj_current = Linear(o.hidden_size, kv_size // 2, bias=o.bias)
        self.v_proj_delayed = Linear(o.hidden_size, kv_size // 2, bias=o.bias)
        self.conv_qk_depthwise = CausalConv(q_size + kv_size, kernels[0], bias=True)
        self.conv_qk_grouped = GroupedConv(o.num_heads + o.num_kv_heads, o.head_dim, kernels[1])

    def state_spec(self) -> StateSpec:
        """The last queries and keys before the convolutions, and the late half of the last values."""
        o = self._options
        sizes = (o.num_heads + o.num_kv_heads) * o.head_dim, o.num_kv_heads * o.head_dim // 2
        return RecurrentSpec((ArraySlot((self._late, sizes[0])), ArraySlot((1, sizes[1]))))

    def __call__(self, x: mx.array, state: LayerState) -> tuple[mx.array, mx.array, mx.array]:
        """Queries, keys and values (B, H, L, D)."""
        o = self._options
        both = mx.concatenate([self.q_proj(x), self.k_proj(x)], axis=-1)
        heads = mx.unflatten(both, -1, (-1, o.head_dim))
        queries, keys = mx.split(heads, [o.num_heads], axis=2)
        share = o.num_heads // o.num_kv_heads
        queries = (queries + mx.repeat(keys, share, axis=2)) * 0.5
        keys = mx.unflatten(queries, 2, (-1, share)).mean(axis=3)
        tail = gather_slot(state, 0)
        tail = mx.zeros((x.shape[0], self._late, both.shape[-1]), both.dtype) if tail is None else tail
        both = mx.concatenate([tail, both], axis=1)
        mixed = self.conv_qk_grouped(self._depthwise(both))
        mixed = mx.unflatten(mixed, -1, (-1, o.head_dim))
        now, late = self.v_proj_current(x), self.v_proj_delayed(x)
        first = gather_slot(state, 1)
        first = self.v_proj_delayed(mx.zeros_like(x[:, :1])) if first is None else first
        values = mx.concatenate([now, mx.concatenate([first, late[:, :-1]], axis=1)], axis=-1)
        scatter_slots(state, [both[:, both.shape[1] - self._late :], late[:, -1:]], x.shape[1])
        parts = queries + mixed[:, :, : o.num_heads], keys + mixed[:, :, o.num_heads :]
        values = mx.unflatten(values, -1, (-1, o.head_dim))
        queries, keys, values = (p.transpose(0, 2, 1, 3) for p in (*parts, values))
        return queries, keys, values

    def _depthwise(self, x: mx.array) -> mx.array:
        """What the convolution gives where all of its inputs are known: K-1 positions fewer than x."""
        kept = self.conv_qk_depthwise.weight.shape[1] - 1
        return self.conv_qk_depthwise(x[:, kept:], x[:, :kept])[0]


class KeyTemperature(nn.Module):
    """A factor for each head's keys."""

    def __init__(self, num_kv_heads: int):
        super().__init__()
        self.temp = mx.zeros((num_kv_heads,))


class ConvolvedAttention(nn.Module):
    """x (B, L, D) -> (B, L, D). Queries and keys have one length; each head's keys also a temperature."""

    def __init__(self, options: AttentionOptions, kernels: tuple[int, int]):
        super().__init__()
        o = options
        self._options = o
        self.qkv_proj = Projections(o, kernels)
        self.qk_norm = KeyTemperature(o.num_kv_heads)
        self.o_proj = Linear(o.num_heads * o.head_dim, o.hidden_size, bias=o.out_bias)

    def state_spec(self) -> StateSpec:
        o = self._options
        return ListSpec((self.qkv_proj.state_spec(), KVSpec(o.num_kv_heads, o.head_dim, o.head_dim, o.window)))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        o, kept = self._options, part(state, 1)
        position = offsets(kept)
        queries, keys, values = self.qkv_proj(x, part(state, 0))
        queries, keys = (kernels.rms_norm(a, None, 1e-30) for a in (queries, keys))
        keys = keys * self.qk_norm.temp[:, None, None]
        if o.rope is not None:
            queries, keys = o.rope(queries, position), o.rope(keys, position)
        views = attend_states(kept, keys, values, o.window)
        out = kernels.attention(queries, views, scale=o.head_dim**-0.5)
        return self.o_proj(out.transpose(0, 2, 1, 3).flatten(2))


class RouterMLP(nn.Module):
    """Narrow states (..., S) to logits (..., E+1)."""

    def __init__(self, size: int, classes: int, eps: float):
        super().__init__()
        self.norm = RMSNorm(size, eps)
        self.fc1, self.fc2 = Linear(size, size), Linear(size, size)
        self.out_proj = Linear(size, classes, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        x = kernels.activation(self.fc1(self.norm(x)), "gelu")
        return self.out_proj(kernels.activation(self.fc2(x), "gelu"))


class Router(nn.Module):
    """Narrow states, with a share of those of the router before, to logits; the last class means no expert."""

    def __init__(self, args: ModelArgs, index: int):
        super().__init__()
        size = args.router_hidden_size
        self.down_proj = Linear(args.hidden_size, size)
        self.router_mlp = RouterMLP(size, args.num_experts + 1, args.rms_norm_eps)
        self.balancing_biases = mx.zeros((args.num_experts + 1,))
        if index:
            self.router_states_scale = mx.ones((size,))

    def __call__(self, x: mx.array, before: mx.array | None) -> tuple[mx.array, mx.array]:
        """Logits (B, L, E+1) and the states for the next router (B, L, S)."""
        states = self.down_proj(x)
        if before is not None and "router_states_scale" in self:
            states = states + before * self.router_states_scale
        return self.router_mlp(states), states


class Experts(nn.Module):
    def __init__(self, args: ModelArgs, index: int):
        super().__init__()
        sizes = args.hidden_size, args.moe_intermediate_size, args.num_experts
        self._idle, self._routing = args.num_experts, Routing(1, normalize=False)
        self.gate = Router(args, index)
        self.switch_mlp = SwitchGLU(*sizes, act=args.hidden_act)

    def __call__(self, x: mx.array, before: mx.array | None) -> tuple[mx.array, mx.array]:
        logits, states = self.gate(x, before)
        logits = logits.reshape(-1, logits.shape[-1])
        indices, weights = route(logits, self._routing, self.gate.balancing_biases)
        works = indices < self._idle
        y = self.switch_mlp(x.reshape(-1, x.shape[-1]), mx.where(works, indices, 0))[:, 0]
        return (y * mx.where(works, weights, 0).astype(y.dtype)).reshape(x.shape), states


class ResidualScaling(nn.Module):
    """(x + bias) * scale for a branch and for the residual stream, added."""

    def __init__(self, size: int):
        super().__init__()
        for name in ("hidden_states", "residual"):
            self[f"{name}_scale"], self[f"{name}_bias"] = mx.ones((size,)), mx.zeros((size,))

    def __call__(self, branch: mx.array, stream: mx.array) -> mx.array:
        branch = (branch + self["hidden_states_bias"]) * self["hidden_states_scale"]
        return branch + (stream + self["residual_bias"]) * self["residual_scale"]


class Layer(nn.Module):
    def __init__(self, args: ModelArgs, index: int, mixer: nn.Module):
        super().__init__()
        size = args.hidden_size
        self.self_attn = mixer
        self.mlp = Experts(args, index)
        self.input_layernorm = RMSNorm(size, args.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(size, args.rms_norm_eps)
        self.post_attention_residual_scale = ResidualScaling(size)
        self.post_mlp_residual_scale = ResidualScaling(size)

    def state_spec(self) -> StateSpec:
        return self.self_attn.state_spec()  # type: ignore[operator]

    def __call__(
        self, x: mx.array, state: LayerState = None, before: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """The residual stream (B, L, D), float32, and the router's states (B, L, S)."""
        dtype = self.input_layernorm.weight.dtype
        x = self.post_attention_residual_scale(self.self_attn(self.input_layernorm(x).astype(dtype), state), x)
        y, states = self.mlp(self.post_attention_layernorm(x).astype(dtype), before)
        return self.post_mlp_residual_scale(y, x), states


class RoutedBackbone(Backbone):
    """Hands each router's states to the next."""

    def __init__(self, model: CausalLM, args: Any):
        super().__init__(model, args)
        self.input_hidden_states_scale = mx.ones((args.hidden_size,))
        self.input_hidden_states_bias = mx.zeros((args.hidden_size,))

    def __call__(
        self, inputs: mx.array, cache: Sequence[LayerState] | None = None, input_embeddings: mx.array | None = None
    ) -> mx.array:
        h = self[self._names.embed](inputs) if input_embeddings is None else input_embeddings
        dtype, states = h.dtype, None
        h = ((h + self.input_hidden_states_bias) * self.input_hidden_states_scale).astype(mx.float32)
        for i, layer in enumerate(self[self._names.layers]):
            h, states = layer(h, layer_state(cache, i), states)
        return self[self._names.norm](h.astype(dtype))


class Model(CausalLM):
    backbone_type = RoutedBackbone
    rules: ClassVar[tuple[Rule, ...]] = (
        *expert_rules(),
        Transform(r"conv_qk_depthwise\.weight$", conv_layout),
    )

    @classmethod
    def layer(cls, args: Any, index: int) -> nn.Module:  # type: ignore[override]
        heads, kv_heads, size = args.heads
        options = AttentionOptions(
            args.hidden_size,
            heads,
            kv_heads,
            size,
            make_rope(size, args.rope_parameters(args.layer_types[index])),
            window=args.window(index),
            bias=args.attention_bias,
            out_bias=args.attention_bias,
        )
        return Layer(args, index, ConvolvedAttention(options, (args.cca_time0, args.cca_time1)))

    @staticmethod
    def head_bias(args: Any) -> bool:
        return args.lm_head_bias

    def weight_rules(self) -> tuple[Rule, ...]:
        heads = self.args.num_attention_heads + self.args.num_key_value_heads

        def by_head(weight: mx.array) -> mx.array:  # (H*D, D, K) -> (H, D, K*D)
            if weight.shape[0] == heads:
                return weight
            return mx.unflatten(weight, 0, (heads, -1)).swapaxes(-1, -2).flatten(2)

        return (*super().weight_rules(), Transform(r"conv_qk_grouped\.weight$", by_head))
