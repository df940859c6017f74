"""Step 3.5: two kinds of attention with gates for each head, sigmoid routing, limited feed-forwards.

Source: https://huggingface.co/stepfun-ai/Step-3.5-Flash.
"""

from functools import partial
from typing import Any

import mlx.core as mx
from mlx import nn

from .. import kernels
from ..errors import ConfigError
from ..nn import Attention, GatedAttention, GatedMLP, MoE, RopeParameters, Routing, SwitchGLU
from ..nn.mlp import GatedActivation
from .config import rope_parameters
from .dense import DenseModel, SlidingArgs
from .weights import Rename

_PER_LAYER = "layer_types", "layer_thetas", "partial_rotary_factors", "swiglu_limits", "swiglu_limits_shared"


class ModelArgs(SlidingArgs):
    aliases = {"num_attention_groups": "num_key_value_heads", "share_expert_dims": "share_expert_dim"}
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 262144
    sliding_window: int | None = 512
    attention_other_setting: dict[str, Any] | None = None
    layer_thetas: list[float] | None = None
    partial_rotary_factors: list[float] | None = None
    yarn_only_types: list[str] | None = None
    use_rope_layers: list[bool | int] | None = None
    use_head_wise_attn_gate: bool = True
    moe_layers_enum: str | list[int] | None = None
    moe_num_experts: int = 288
    moe_top_k: int = 8
    moe_intermediate_size: int = 1280
    share_expert_dim: int = 1280
    moe_router_activation: str = "sigmoid"
    moe_router_scaling_factor: float = 1.0
    use_moe_router_bias: bool = True
    norm_expert_weight: bool = True
    swiglu_limits: list[float | None] | None = None
    swiglu_limits_shared: list[float | None] | None = None

    @classmethod
    def prepared(cls, flat: dict[str, Any]) -> dict[str, Any]:
        """`rope_theta` may be a list, and lists may go on for layers that predict further."""
        if isinstance(flat.get("rope_theta"), list):
            flat["layer_thetas"] = flat.pop("rope_theta")
        count = flat.get("num_hidden_layers")
        for name in _PER_LAYER:
            if isinstance(flat.get(name), list) and isinstance(count, int):
                flat[name] = flat[name][: max(count, 0)]
        return flat

    def __post_init__(self) -> None:
        count = self.num_hidden_layers
        if not self.layer_types:
            self.layer_types = [("sliding_attention", "full_attention")[i % 2] for i in range(count)]
        super().__post_init__()
        for name in _PER_LAYER:
            if getattr(self, name) and len(getattr(self, name)) != count:
                raise ConfigError(f"config.json: {name} must have an entry for each of {count} layers.")
        if self.use_rope_layers and not all(self.use_rope_layers):
            raise ConfigError("config.json: layers without rope (use_rope_layers) are not supported.")
        if not self.norm_expert_weight or self.moe_router_activation not in ("sigmoid", "softmax"):
            raise ConfigError("config.json: this norm_expert_weight or moe_router_activation is not supported.")
        if isinstance(self.moe_layers_enum, str):
            try:
                self.moe_layers_enum = [int(part) for part in self.moe_layers_enum.split(",") if part.strip()]
            except ValueError:
                raise ConfigError(f"config.json: moe_layers_enum={self.moe_layers_enum!r} is not a list.") from None

    def heads_at(self, index: int) -> tuple[int, int]:
        """Query heads and key-value heads of layer `index`."""
        other = self.attention_other_setting
        if other is None or self.layer_type(index) == "full_attention":
            return self.heads[:2]
        heads, groups = other.get("num_attention_heads"), other.get("num_attention_groups")
        if not isinstance(heads, int) or not isinstance(groups, int) or min(heads, groups) < 1 or heads % groups:
            raise ConfigError(f"config.json: attention_other_setting={other!r} is not possible.")
        return heads, groups

    def layer_rope(self, index: int) -> RopeParameters:
        theta = self.layer_thetas[index] if self.layer_thetas else self.rope_theta
        share = self.partial_rotary_factors[index] if self.partial_rotary_factors else 1.0
        scaled = self.yarn_only_types is None or self.layer_type(index) in self.yarn_only_types
        return rope_parameters(theta, share, self.rope_scaling if scaled else None, self.max_position_embeddings)

    def has_experts(self, index: int) -> bool:
        return index in self.moe_layers_enum if isinstance(self.moe_layers_enum, list) else index >= 1

    def activation(self, limits: list[float | None] | None, index: int) -> GatedActivation:
        """Of layer `index`, whose parts may have a limit."""
        limit = limits[index] if limits else None
        return partial(limited, limit=limit) if limit else "silu"


def limited(gate: mx.array, up: mx.array, *, limit: float) -> mx.array:
    """silu(gate), at most `limit`, times `up` within +-`limit`."""
    return mx.minimum(kernels.activation(gate, "silu"), limit) * mx.clip(up, -limit, limit)


class HeadGates(GatedAttention):
    gate_name, per_head = "g_proj", True


class Experts(MoE):
    router_layer = "gate"
    shared_name, correction_name = "share_expert", "router_bias"


class Model(DenseModel):
    qk_norm = True
    next_token_layers = True
    norm_options = {"offset": 1.0}
    rules = (
        Rename(r"\.moe\.gate\.weight$", ".mlp.gate.gate.weight"),
        Rename(r"\.moe\.router_bias$", ".mlp.gate.router_bias"),
        Rename(r"\.moe\.(gate|up|down)_proj\.", r".mlp.switch_mlp.\1_proj."),
        Rename(r"(\.\d+)\.share_expert\.", r"\1.mlp.share_expert."),
    )

    def mixer(self, args: Any, index: int) -> Attention:
        heads, kv_heads = args.heads_at(index)
        options = self.attention_options(args, index, num_heads=heads, num_kv_heads=kv_heads)
        return HeadGates(options) if args.use_head_wise_attn_gate else Attention(options)

    def feed_forward(self, args: Any, index: int) -> nn.Module:
        sparse, width, count = args.has_experts(index), args.hidden_size, args.moe_num_experts
        size = args.share_expert_dim if sparse else args.intermediate_size
        mlp = GatedMLP(width, size, args.activation(args.swiglu_limits_shared, index))
        if not sparse:
            return mlp
        sigmoid = args.use_moe_router_bias or args.moe_router_activation == "sigmoid"
        score, scale = "sigmoid" if sigmoid else "softmax", args.moe_router_scaling_factor
        routing = Routing(args.moe_top_k, score, normalize=sigmoid, scale=scale, epsilon=1e-20)
        act = args.activation(args.swiglu_limits, index)
        experts = SwitchGLU(width, args.moe_intermediate_size, count, act=act)
        return Experts(width, count, routing, experts, shared=mlp, correction=args.use_moe_router_bias)
