"""Nemotron-H: each layer is one mixer: Mamba-2, attention without positions, a feed-forward, or experts.

Source: https://arxiv.org/abs/2504.03624.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..nn import MLP, LayerNames, Linear, Mamba2, Mamba2Options, MoE, SwitchMLP
from .mamba2 import mamba2_options
from .parts import DenseModel, Drop, LinearArgs, ModelNames, Rename, Stack, gated_moe, refuse

_LETTERS = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}


class ModelArgs(LinearArgs):
    kinds = tuple(_LETTERS.values())
    aliases = {"layer_norm_epsilon": "rms_norm_eps", "layers_block_type": "layer_types", "norm_eps": "rms_norm_eps"}
    num_hidden_layers: int = 0  # counted from the list of kinds
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096
    hybrid_override_pattern: str | list[str] | None = None
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
        if self.layer_types is None:
            self.layer_types = [_LETTERS.get(letter, letter) for letter in self.hybrid_override_pattern or ()]
        count = len(self.layer_types)
        refuse(self.num_hidden_layers not in (0, count), f"num_hidden_layers is not the number of kinds, {count}")
        self.num_hidden_layers = count
        super().__post_init__()

    def kind(self, index: int) -> str:
        """What layer `index` has."""
        return (self.layer_types or [])[index]

    def has_experts(self, index: int) -> bool:
        return self.kind(index) == "moe"

    def linear_options(self) -> Mamba2Options:
        return mamba2_options(self)


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
    linear_type = Mamba2
    feed_forward_type = MLP
    layer_names = LayerNames("mixer", "mixer", "norm", None, "norm")
    attention = {"rope": None, "bias": False, "out_bias": False}
    rules = (
        Drop(r"^mtp\."),
        Rename(r"^model\.", "backbone."),
        Rename(r"(\.mixer\.experts\..*\b)up_proj\b", r"\1fc1"),
        Rename(r"(\.mixer\.experts\..*\b)down_proj\b", r"\1fc2"),
        Stack(r"(?P<at>.*\.mixer)\.experts\.(?P<expert>\d+)\.(?P<kind>fc[12]\.\w+)", r"\g<at>.switch_mlp.\g<kind>"),
        Rename(r"(\.mixer)\.experts\.(fc[12])$", r"\1.switch_mlp.\2.weight"),
    )

    def mixer(self, args: Any, index: int) -> nn.Module | None:
        return super().mixer(args, index) if args.kind(index) == "full_attention" else None

    def feed_forward(self, args: Any, index: int) -> nn.Module | None:
        return None if "attention" in args.kind(index) else super().feed_forward(args, index)

    def activation(self, args: Any) -> str:
        return args.mlp_hidden_act

    def experts(self, args: Any) -> nn.Module:
        size, shared = args.moe_latent_size, args.moe_shared_expert_intermediate_size if args.n_shared_experts else 0
        options = {"shared": shared, "act": args.mlp_hidden_act, "blocks": (MLP, SwitchMLP), "correction": True}
        if size is None:
            return gated_moe(args, self.routing(args), **options)
        latent = {"inner": size, "latent_size": size, "latent_bias": args.mlp_bias}
        return gated_moe(args, self.routing(args), LatentMoE, **options, **latent)
