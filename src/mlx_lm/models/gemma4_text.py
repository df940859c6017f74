"""Gemma 4: two kinds of heads, layers that share keys and values, inputs of each layer's own, optional experts.

Source: https://ai.google.dev/gemma/docs/core/model_card_4.
"""

from functools import partial
from typing import Any

import mlx.core as mx
from mlx import nn

from .. import kernels
from ..nn import Linear, RMSNorm, Routing, SwitchGLU, route
from .config import refuse
from .per_layer import PerLayer, PerLayerArgs, PerLayerModel, Shared
from .weights import expert_rules

_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
}


class ModelArgs(PerLayerArgs):
    """Full layers have heads of another size, given by layer (`per_layer_config`) or for all (`global_...`)."""

    layer_sizes = ("head_dim", "num_key_value_heads")
    max_position_embeddings: int = 131072
    sliding_window_pattern: int | None = 6
    use_bidirectional_attention: str | bool | None = None
    attention_k_eq_v: bool = False
    enable_moe_block: bool = False
    use_double_wide_mlp: bool = False
    num_experts: int | None = None
    top_k_experts: int | None = None
    moe_intermediate_size: int | None = None
    global_head_dim: int | None = None
    num_global_key_value_heads: int | None = None
    per_layer_config: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rope_by_layer_type = self.rope_by_layer_type or _ROPES
        encodes = self.use_bidirectional_attention == "all"
        refuse(encodes, "use_bidirectional_attention='all' makes an encoder; it cannot generate")
        if self.per_layer_config is None:
            other: dict[str, Any] = {"head_dim": self.global_head_dim or 512}
            if self.attention_k_eq_v and self.num_global_key_value_heads is not None:
                other["num_key_value_heads"] = self.num_global_key_value_heads
            self.per_layer_config = {str(i): other for i in range(self.num_hidden_layers) if self.window(i) is None}
        lacks = self.enable_moe_block and not (self.num_experts and self.top_k_experts and self.moe_intermediate_size)
        refuse(lacks, "enable_moe_block needs num_experts, top_k_experts and moe_intermediate_size")

    def layer_heads(self, index: int) -> tuple[int, int, int]:
        return self.at(index).heads

    def layer_width(self, index: int) -> int:
        return self.intermediate_size * (2 if self.use_double_wide_mlp and self.reads(index) else 1)

    def values_are_keys(self, index: int) -> bool:
        return self.attention_k_eq_v and self.window(index) is None

    def has_experts(self, index: int) -> bool:
        return False  # experts stand beside the feed-forward


class ExpertRouter(nn.Module):
    """Indices and weights of experts from unnormalized hidden states."""

    def __init__(self, args: Any):
        super().__init__()
        self.proj = Linear(args.hidden_size, args.num_experts, bias=False)
        self.scale = mx.ones((args.hidden_size,))
        self.per_expert_scale = mx.ones((args.num_experts,))
        self._routing = Routing(args.top_k_experts)
        self._eps = args.rms_norm_eps

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        x = kernels.rms_norm(x, None, self._eps) * self.scale * x.shape[-1] ** -0.5
        indices, weights = route(self.proj(x), self._routing)
        return indices, weights * self.per_expert_scale[indices]


class Experts(nn.Module):
    """The weighted sum of a token's experts."""

    def __init__(self, args: Any):
        super().__init__()
        sizes = args.hidden_size, args.moe_intermediate_size, args.num_experts
        self.switch_glu = SwitchGLU(*sizes, act=args.hidden_act)

    def __call__(self, x: mx.array, indices: mx.array, weights: mx.array) -> mx.array:
        y = self.switch_glu(x, indices)
        return (y * weights[..., None].astype(y.dtype)).sum(axis=-2)


class Layer(PerLayer):
    """Norms around attention and around the feed-forward, experts beside it, then the layer's own input."""

    def add(self, args: Any, index: int) -> None:
        super().add(args, index)
        norm = partial(RMSNorm, args.hidden_size, args.rms_norm_eps)
        self.layer_scalar = mx.ones((1,))
        if args.enable_moe_block:
            self.router, self.experts = ExpertRouter(args), Experts(args)
            self.post_feedforward_layernorm_1, self.post_feedforward_layernorm_2 = norm(), norm()
            self.pre_feedforward_layernorm_2 = norm()

    def __call__(
        self, x: mx.array, state: Any = None, extra: mx.array | None = None, shared: Shared | None = None
    ) -> mx.array:
        h = self.self_attn(self.input_layernorm(x), state, shared)
        x = x + self.post_attention_layernorm(h)
        h = self.mlp(self.pre_feedforward_layernorm(x))
        if "router" in self:
            flat = x.reshape(-1, x.shape[-1])
            chosen = self.experts(self.pre_feedforward_layernorm_2(flat), *self.router(flat)).reshape(x.shape)
            h = self.post_feedforward_layernorm_1(h) + self.post_feedforward_layernorm_2(chosen)
        x = x + self.post_feedforward_layernorm(h)
        if extra is not None:
            x = x + self.own_input(x, extra)
        return x * self.layer_scalar


class Model(PerLayerModel):
    layer_type = Layer
    rules = expert_rules(r"layers\.\d+", target="experts.switch_glu")
