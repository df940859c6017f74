"""Nemotron-H: each layer is one mixer: Mamba-2, attention without positions, a feed-forward, or experts.

Source: https://arxiv.org/abs/2504.03624.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import ConfigError
from ..nn import MLP, LayerNames, Linear, Mamba2, MoE, SwitchMLP
from .base import DecoderArgs, ModelNames
from .dense import DenseModel
from .experts import grouped_routing
from .mamba2 import mamba2_options
from .weights import Drop, Rename, Stack

_LETTERS = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}
_OTHER_NAMES = {"mamba": "linear_attention", "attention": "full_attention"}


class ModelArgs(DecoderArgs):
    aliases = {"layer_norm_epsilon": "rms_norm_eps", "norm_eps": "rms_norm_eps"}
    num_hidden_layers: int = 0  # counted from the list of kinds
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096
    hybrid_override_pattern: str | list[str] | None = None
    layers_block_type: list[str] | None = None
    attention_bias: bool = False  # published configs have it, the layers do not
    mlp_bias: bool = False
    use_bias: bool = False
    use_conv_bias: bool = True
    mamba_num_heads: int = 128
    mamba_head_dim: int = 64
    mamba_hidden_act: str = "silu"
    mlp_hidden_act: str = "relu2"
    n_groups: int = 8
    ssm_state_size: int = 128
    conv_kernel: int = 4
    time_step_min: float = 0.001
    n_routed_experts: int = 8
    n_shared_experts: int = 1
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 7688
    moe_shared_expert_intermediate_size: int = 7688
    moe_latent_size: int | None = None
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0

    def __post_init__(self) -> None:
        kinds = self.layers_block_type
        if kinds is None:
            kinds = [_LETTERS.get(letter, letter) for letter in self.hybrid_override_pattern or ()]
        self.kinds = [_OTHER_NAMES.get(kind, kind) for kind in kinds]
        if not self.kinds or set(self.kinds) - set(_LETTERS.values()):
            raise ConfigError(f"config.json: layers_block_type or hybrid_override_pattern is wrong: {kinds!r}.")
        if self.num_hidden_layers not in (0, len(self.kinds)):
            raise ConfigError(f"config.json: {len(self.kinds)} kinds for num_hidden_layers={self.num_hidden_layers}.")
        self.num_hidden_layers = len(self.kinds)
        super().__post_init__()

    def is_linear(self, index: int) -> bool:
        return self.kinds[index] == "linear_attention"


class LatentMoE(MoE):
    """Experts that work on a smaller projection of the hidden state."""

    def __init__(self, hidden_size: int, *parts: Any, latent_size: int, latent_bias: bool, **options: Any):
        super().__init__(hidden_size, *parts, **options)
        self.fc1_latent_proj = Linear(hidden_size, latent_size, bias=latent_bias)
        self.fc2_latent_proj = Linear(latent_size, hidden_size, bias=latent_bias)

    def _visit(self, flat: mx.array, indices: mx.array, weights: mx.array) -> mx.array:
        return self.fc2_latent_proj(super()._visit(self.fc1_latent_proj(flat), indices, weights))


class Model(DenseModel):
    names = ModelNames(backbone="backbone", embed="embeddings", norm="norm_f")
    layer_names = LayerNames("mixer", "mixer", "norm", None, "norm")
    attention = {"rope": None, "bias": False, "out_bias": False}
    rules = (
        Drop(r"^mtp\."),
        Rename(r"^model\.", "backbone."),
        *(
            rule
            for hub, own in (("up_proj", "fc1"), ("down_proj", "fc2"))
            for rule in (
                Stack(
                    rf"(?P<at>.*\.mixer)\.experts\.(?P<expert>\d+)\.{hub}\.(?P<kind>\w+)",
                    rf"\g<at>.switch_mlp.{own}.\g<kind>",
                ),
                Rename(rf"(\.mixer)\.experts\.{hub}$", rf"\1.switch_mlp.{own}.weight"),
            )
        ),
    )

    def mixer(self, args: Any, index: int) -> nn.Module | None:
        return super().mixer(args, index) if args.kinds[index] == "full_attention" else None

    def linear_mixer(self, args: Any, index: int) -> nn.Module:
        return Mamba2(mamba2_options(args))

    def feed_forward(self, args: Any, index: int) -> nn.Module | None:
        kind = args.kinds[index]
        if kind != "mlp":
            return self.experts(args) if kind == "moe" else None
        return MLP(args.hidden_size, args.intermediate_size, args.mlp_hidden_act, bias=args.mlp_bias)

    def experts(self, args: Any) -> nn.Module:
        width, act, shared = args.hidden_size, args.mlp_hidden_act, None
        if args.n_shared_experts:
            shared = MLP(width, args.moe_shared_expert_intermediate_size, act, bias=args.mlp_bias)
        inner = args.moe_latent_size or width
        experts = SwitchMLP(inner, args.moe_intermediate_size, args.n_routed_experts, act=act)
        parts = width, args.n_routed_experts, grouped_routing(args), experts
        if args.moe_latent_size is None:
            return MoE(*parts, shared=shared, correction=True)
        return LatentMoE(*parts, shared=shared, correction=True, latent_size=inner, latent_bias=args.mlp_bias)
