"""ZAYA: attention over convolved queries and keys, one expert a token, routers that hear the layer before.

Sources: https://arxiv.org/abs/2510.04476 (compressed convolutional attention), https://arxiv.org/abs/2605.05365.
"""

from dataclasses import field
from typing import Any

import mlx.core as mx
from mlx import nn

from .. import kernels
from ..nn import DecoderLayer, Linear, RMSNorm, RopeParameters, Routing, SwitchGLU, route
from ..nn.convolved import ConvolvedAttention
from ..state import LayerState
from .parts import Backbone, Cache, CausalLM, DecoderArgs, DenseModel, layer_state, refuse
from .weights import Rule, Transform, expert_rules

_ROPES = {"hybrid": 5000000.0, "hybrid_sliding": 10000.0}


class ModelArgs(DecoderArgs):
    fixed = {"num_experts_per_tok": (1,)}
    per_layer = {"layer_types": _ROPES}
    head_dim: int | None = 128
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 131072
    tie_word_embeddings: bool = True
    partial_rotary_factor: float = 0.5
    sliding_window: int | None = None
    layer_types: list[str] = field(default_factory=list)
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
        slides = "hybrid_sliding" in self.layer_types
        refuse(slides and not (self.sliding_window or 0) > 0, "layer_types with 'hybrid_sliding' need a sliding_window")
        refuse(self.cca_time0 + self.cca_time1 < 3, "cca_time0 and cca_time1 must not both be 1")

    def window(self, index: int) -> int | None:
        return self.sliding_window if self.layer_types[index] == "hybrid_sliding" else None

    def layer_rope(self, index: int) -> RopeParameters:
        return self.rope_parameters(self.layer_types[index])


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
        self._idle, self._routing = args.num_experts, Routing(1, normalize=False)
        self.gate = Router(args, index)
        self.switch_mlp = SwitchGLU(args.hidden_size, args.moe_intermediate_size, self._idle, act=args.hidden_act)

    def __call__(self, x: mx.array, before: mx.array | None) -> tuple[mx.array, mx.array]:
        logits, states = self.gate(x, before)
        indices, weights = route(logits.flatten(0, 1), self._routing, self.gate.balancing_biases)
        works = indices < self._idle
        y = self.switch_mlp(x.flatten(0, 1), mx.where(works, indices, 0))[:, 0]
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


class Layer(DecoderLayer):
    def add(self, args: Any, index: int) -> None:
        self.post_attention_residual_scale = ResidualScaling(args.hidden_size)
        self.post_mlp_residual_scale = ResidualScaling(args.hidden_size)

    def pass_on(self, x: mx.array, state: LayerState, before: mx.array | None) -> tuple[mx.array, mx.array]:
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

    def through(self, h: mx.array, cache: Cache, inputs: mx.array) -> mx.array:
        dtype, states = h.dtype, None
        h = ((h + self.input_hidden_states_bias) * self.input_hidden_states_scale).astype(mx.float32)
        for i, layer in enumerate(self[self._names.layers]):
            h, states = layer.pass_on(h, layer_state(cache, i), states)
        return self[self._names.norm](h.astype(dtype))


class Model(DenseModel):
    backbone_type = RoutedBackbone
    layer_type = Layer
    head_bias = "lm_head_bias"
    rules = expert_rules()

    def mixer(self, args: Any, index: int) -> nn.Module:
        return ConvolvedAttention(self.attention_options(args, index), (args.cca_time0, args.cca_time1))

    def feed_forward(self, args: Any, index: int) -> nn.Module:
        return Experts(args, index)

    def weight_rules(self) -> tuple[Rule, ...]:
        heads = self.args.num_attention_heads + self.args.num_key_value_heads

        def by_head(weight: mx.array) -> mx.array:  # (H*D, D, K) -> (H, D, K*D)
            if weight.shape[0] == heads:
                return weight
            return mx.unflatten(weight, 0, (heads, -1)).swapaxes(-1, -2).flatten(2)

        return (*super().weight_rules(), Transform(r"conv_qk_grouped\.weight$", by_head))
