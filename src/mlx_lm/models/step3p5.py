"""Step 3.5: two kinds of attention with gates for each head, sigmoid routing, limited feed-forwards.

Source: https://huggingface.co/stepfun-ai/Step-3.5-Flash.
"""

from functools import partial
from typing import Any

import mlx.core as mx
from mlx import nn

from .. import kernels
from ..nn import Attention, GatedActivation, GatedAttention, GatedMLP, MoE, RopeParameters, Routing, SwitchGLU, named
from .parts import DenseModel, Rename, SlidingArgs, refuse, rope_parameters

_PER_LAYER = "layer_types", "layer_thetas", "partial_rotary_factors", "swiglu_limits", "swiglu_limits_shared"


class ModelArgs(SlidingArgs):
    fixed = {"moe_router_activation": ("sigmoid", "softmax"), "norm_expert_weight": (True,)}
    per_layer = dict.fromkeys(_PER_LAYER, ())
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
                flat[name] = flat[name][: max(count, 0)] or None
        return flat

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(not all(self.use_rope_layers or ()), "layers without rope (use_rope_layers) are not supported")
        if isinstance(self.moe_layers_enum, str):
            listed = [part for part in map(str.strip, self.moe_layers_enum.split(",")) if part]
            refuse(not all(map(str.isdecimal, listed)), f"moe_layers_enum={self.moe_layers_enum!r} is not a list")
            self.moe_layers_enum = [int(part) for part in listed]

    def slides(self, index: int) -> bool:
        return index % 2 == 0

    def layer_heads(self, index: int) -> tuple[int, int, int]:
        other: Any = self.attention_other_setting
        if other is None or self.layer_type(index) == "full_attention":
            return self.heads
        heads, groups = (other.get(f"num_attention_{name}") for name in ("heads", "groups"))
        counts = all(isinstance(number, int) and number > 0 for number in (heads, groups))
        refuse(not counts or heads % groups, f"attention_other_setting={other!r} is not possible")
        return heads, groups, self.heads[2]

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


HeadGates = named(GatedAttention, gate_name="g_proj", per_head=True)
Experts = named(MoE, router_layer="gate", shared_name="share_expert", correction_name="router_bias")


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
        return (HeadGates if args.use_head_wise_attn_gate else Attention)(self.attention_options(args, index))

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
