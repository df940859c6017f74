"""Kimi K3: the text tower. Kimi Linear with bounded activations, narrower experts, and attention over depth.

Source: https://huggingface.co/moonshotai/Kimi-K3.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import ChannelDelta, DecoderLayer, LatentAttention, Linear, MoE, RMSNorm, named
from ..nn.mlp import GatedActivation
from ..state import LayerState
from . import kimi_linear
from .parts import CausalLM, PassingBackbone, Rename, Rule, Split, TextTower, gated_moe


class ModelArgs(kimi_linear.ModelArgs):
    fixed = {**kimi_linear.ModelArgs.fixed, "hidden_act": ("situ",), "use_full_rank_gate": (True,)}
    positive = "activation_situ_beta", "activation_situ_linear_beta"
    nested = {"linear_attn_config": {
        **kimi_linear.ModelArgs.nested["linear_attn_config"], "gate_lower_bound": "gate_lower_bound",
        "use_full_rank_gate": "use_full_rank_gate",
    }}  # fmt: skip
    activation_situ_beta: float | None = None
    activation_situ_linear_beta: float | None = None
    attn_res_block_size: int
    gate_lower_bound: float | None = None
    latent_moe_use_norm: bool = False
    mla_use_output_gate: bool = False
    routed_expert_hidden_size: int | None = None
    use_full_rank_gate: bool

    def __post_init__(self) -> None:
        self.hidden_act = "silu"  # after the delta layers' convolutions; feed-forwards have `situ`
        super().__post_init__()


def situ(gate: mx.array, up: mx.array, *, beta: float | None, linear_beta: float | None) -> mx.array:
    """b*tanh(gate/b) * sigmoid(gate) * c*tanh(up/c), in float32; without `linear_beta` just `up`."""
    raw, wide, beta = gate.astype(mx.float32), up.astype(mx.float32), beta or 1.0
    wide = wide if linear_beta is None else linear_beta * mx.tanh(wide / linear_beta)
    return (beta * mx.tanh(raw / beta) * mx.sigmoid(raw) * wide).astype(up.dtype)


class NarrowMoE(MoE):
    """Experts read and write a narrower space, where their sum may be normed."""

    def __init__(self, width: int, *sizes: Any, narrow: int, **options: Any):
        super().__init__(width, *sizes, **options)
        self.routed_expert_down_proj = Linear(width, narrow, bias=False)
        self.routed_expert_up_proj = Linear(narrow, width, bias=False)

    def _visit(self, flat: mx.array, indices: mx.array, weights: mx.array) -> mx.array:
        y = super()._visit(self.routed_expert_down_proj(flat), indices, weights)
        return self.routed_expert_up_proj(self.routed_expert_norm(y) if "routed_expert_norm" in self else y)


def add_depth_attention(owner: nn.Module, name: str, args: ModelArgs) -> None:
    """A softmax, for each token, over what earlier blocks of layers gave and the stream since."""
    owner[f"{name}_proj"] = Linear(args.hidden_size, 1, bias=False)
    owner[f"{name}_norm"] = RMSNorm(args.hidden_size, args.rms_norm_eps)


def read_depth(owner: nn.Module, name: str, stream: mx.array, bank: Sequence[mx.array]) -> mx.array:
    if not bank:
        return stream
    values = mx.stack([*bank, stream], axis=-2)  # (B, L, N, D)
    scores = owner[f"{name}_proj"](owner[f"{name}_norm"](values)).astype(mx.float32)
    return (mx.softmax(scores, axis=-2) * values.astype(mx.float32)).sum(axis=-2).astype(stream.dtype)


class Layer(DecoderLayer):
    """A layer that starts a block puts the stream into the bank, and starts a new one."""

    def add(self, args: ModelArgs, index: int) -> None:
        for name in ("self_attention_res", "mlp_res"):
            add_depth_attention(self, name, args)
        self._starts = index % args.attn_res_block_size == 0

    def pass_on(self, x: mx.array, state: LayerState, bank: Any) -> tuple[mx.array, list[mx.array]]:
        h = self._mix(self.input_layernorm(read_depth(self, "self_attention_res", x, bank)), state)
        bank, x = ([*(bank or ()), x], h) if self._starts else (bank, x + h)
        return x + self._feed(self.post_attention_layernorm(read_depth(self, "mlp_res", x, bank))), bank


class DeepBackbone(PassingBackbone):
    def __init__(self, model: CausalLM, args: Any):
        super().__init__(model, args)
        add_depth_attention(self, "output_attn_res", args)

    def end(self, h: mx.array, passed: Any) -> mx.array:
        return super().end(read_depth(self, "output_attn_res", h, passed), passed)


class TextModel(kimi_linear.Model):
    backbone_type = DeepBackbone
    layer_type = Layer
    linear_type = named(ChannelDelta, narrow="f")

    def weight_rules(self) -> tuple[Rule, ...]:
        return (
            Split(r"(.*\.self_attn)\.qkv_proj\.(\w+)", tuple(rf"\1.{n}_proj.\2" for n in "qkv")),
            Split(r"(.*\.self_attn)\.qkv_conv\.conv\.weight", tuple(rf"\1.{n}_conv1d.weight" for n in "qkv")),
            *super().weight_rules(),
            Rename(r"\.mlp\.e_score_correction_bias$", ".mlp.gate.e_score_correction_bias"),
            Rename(r"(\.self_attn\.[qkv])_conv\.conv\.weight$", r"\1_conv1d.weight"),
            lambda weights: {k: v.reshape(-1) if k.endswith(".A_log") else v for k, v in weights.items()},
        )

    def mixer(self, args: Any, index: int) -> nn.Module:
        kind = named(LatentAttention, gate_name="g_proj") if args.mla_use_output_gate else LatentAttention
        return kind(self.latent_options(args, index))

    def activation(self, args: Any) -> GatedActivation:
        return partial(situ, beta=args.activation_situ_beta, linear_beta=args.activation_situ_linear_beta)

    def experts(self, args: Any) -> nn.Module:
        if not (narrow := args.routed_expert_hidden_size):
            return super().experts(args)
        own = {"act": self.activation(args), "inner": narrow, "narrow": narrow, "correction": True}
        moe = gated_moe(args, self.routing(args), NarrowMoE, **own)
        if args.latent_moe_use_norm:
            moe.routed_expert_norm = RMSNorm(narrow, args.rms_norm_eps)
        return moe


class Model(TextTower):
    text_model = TextModel
