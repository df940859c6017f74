"""LongCat-Flash: two attentions and two feed-forwards a layer, and experts beside the second half.

Some experts do nothing. Source: https://arxiv.org/abs/2509.01322.
"""

from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import GatedMLP, LatentOptions, MoE, RMSNorm, Routing
from ..state import LayerState, ListSpec, StateSpec, part
from . import deepseek_v3
from .parts import Drop, DropLayers, Rule, Transform, expert_rules, gated_moe, refuse


class ModelArgs(deepseek_v3.ModelArgs):
    fixed = {"zero_expert_type": ("identity",)}
    aliases = {
        "num_layers": "num_hidden_layers",
        "ffn_hidden_size": "intermediate_size",
        "expert_ffn_hidden_size": "moe_intermediate_size",
        "moe_topk": "num_experts_per_tok",
    }
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000000.0
    max_position_embeddings: int = 131072
    n_routed_experts: int | None = 512
    num_experts_per_tok: int | None = 12
    zero_expert_num: int = 256
    router_bias: bool = False
    norm_topk_prob: bool = False
    mla_scale_q_lora: bool = True
    mla_scale_kv_lora: bool = True
    routed_scaling_factor: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        lacks = self.q_lora_rank is None or not self.n_routed_experts or self.zero_expert_num < 0
        refuse(lacks, "'longcat_flash' needs q_lora_rank, n_routed_experts and zero_expert_num of at least 0")

    def routing(self) -> Routing:
        return Routing(self.num_experts_per_tok or 1, normalize=self.norm_topk_prob, scale=self.routed_scaling_factor)


class SomeIdle(MoE):
    """The last `idle` experts give their input back."""

    router_name, router_layer = "router", "classifier"

    def __init__(self, width: int, working: int, *parts: Any, idle: int, **options: Any):
        super().__init__(width, working + idle, *parts, **options)
        self._working = working

    def _visit(self, flat: mx.array, indices: mx.array, weights: mx.array) -> mx.array:
        works = indices < self._working
        y = super()._visit(flat, mx.where(works, indices, 0), mx.where(works, weights, 0.0))
        return y + flat * mx.where(works, 0.0, weights).sum(axis=-1, keepdims=True).astype(flat.dtype)


class DoubleLayer(nn.Module):
    """Attention and feed-forward twice; the experts read what the first feed-forward reads, and are added last."""

    def __init__(self, args: Any, mixers: list[nn.Module]):
        super().__init__()
        self.self_attn = mixers
        self._own_states: list[StateSpec] = []
        self.mlps = [GatedMLP(args.hidden_size, args.intermediate_size, args.hidden_act) for _ in mixers]
        self.input_layernorm = [RMSNorm(args.hidden_size, args.rms_norm_eps) for _ in mixers]
        self.post_attention_layernorm = [RMSNorm(args.hidden_size, args.rms_norm_eps) for _ in mixers]
        options = {"router_bias": args.router_bias, "correction": True, "idle": args.zero_expert_num}
        self.mlp = gated_moe(args, args.routing(), SomeIdle, shared=0, **options)

    def state_spec(self) -> StateSpec:
        return ListSpec((*(mixer.state_spec() for mixer in self.self_attn), *self._own_states))

    def keep(self, spec: StateSpec) -> None:
        """Adds a state to those of the attentions."""
        self._own_states.append(spec)

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        shortcut = mx.array(0.0, x.dtype)
        for i, mixer in enumerate(self.self_attn):
            x = x + mixer(self.input_layernorm[i](x), part(state, i))
            h = self.post_attention_layernorm[i](x)
            shortcut = self.mlp(h) if i == 0 else shortcut
            x = x + self.mlps[i](h)
        return x + shortcut


class Model(deepseek_v3.Model):
    rules = (Drop(r"(^|\.)mtp\."), *expert_rules())

    def weight_rules(self) -> tuple[Rule, ...]:
        working = self.args.n_routed_experts  # some writers give matrices to the others
        cut = Transform(r"\.mlp\.experts\.gate_up_proj$", lambda w: w[:working])
        return (DropLayers(working, r"mlp\.experts"), cut, *super().weight_rules())

    def layer(self, args: Any, index: int) -> DoubleLayer:
        return DoubleLayer(args, [self.mixer(args, 2 * index + i) for i in range(2)])

    def latent_options(self, args: Any, index: int) -> LatentOptions:
        grows = {"grow_queries": args.mla_scale_q_lora, "grow_latents": args.mla_scale_kv_lora}
        return replace(super().latent_options(args, index), **grows)
