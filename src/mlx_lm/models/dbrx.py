"""DBRX: limited queries, keys and values; 16 experts of which 4 are visited. https://www.databricks.com/blog/dbrx."""

from dataclasses import field
from typing import Any

import mlx.core as mx
from mlx import nn

from ..errors import ConfigError
from ..kernels import ACTIVATIONS
from ..nn import DecoderLayer, LayerNames, LayerNorm, Routing
from ..state import LayerState, StateSpec
from .base import DecoderArgs, ModelNames
from .dense import DenseModel
from .experts import gated_moe
from .granitemoe import Experts
from .phixtral import FusedAttention
from .weights import Rename, Rule, Transform, expert_rules


class ModelArgs(DecoderArgs):
    layer_norm_eps: float = 1e-5
    rope_theta: float = 0.0
    attn_config: dict[str, Any] = field(default_factory=dict)
    ffn_config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        attention, ffn = self.attn_config, self.ffn_config
        self.num_key_value_heads = attention.get("kv_n_heads") or self.num_key_value_heads
        self.rope_theta = self.rope_theta or attention.get("rope_theta") or 10000.0
        self.hidden_act = (ffn.get("ffn_act_fn") or {}).get("name", "silu")
        sizes = ffn.get("ffn_hidden_size", 3584), ffn.get("moe_num_experts", 4), ffn.get("moe_top_k", 1)
        clip, norm = attention.get("clip_qkv"), ffn.get("moe_normalize_expert_weights", 1.0)
        numbers = (*sizes, self.num_key_value_heads or 1, self.rope_theta, clip or 1.0)
        if any(isinstance(n, bool) or not isinstance(n, int | float) or n <= 0 for n in numbers):
            raise ConfigError("config.json: attn_config and ffn_config must hold positive numbers.")
        if norm not in (None, 1, 1.0) or self.hidden_act not in ACTIVATIONS or sizes[2] > sizes[1]:
            raise ConfigError(
                "config.json: this moe_normalize_expert_weights, ffn_act_fn or moe_top_k is not supported."
            )
        super().__post_init__()
        self.intermediate_size, self.num_experts, self.top_k = sizes
        self.clip, self.normalize = clip, norm is not None


class NormAttnNorm(nn.Module):
    """Where checkpoints have attention with both norms of the layer."""

    def __init__(self, attn: nn.Module, args: Any):
        super().__init__()
        self.attn = attn
        self.norm_1, self.norm_2 = (LayerNorm(args.hidden_size, args.layer_norm_eps, bias=False) for _ in range(2))


class Layer(DecoderLayer):
    def state_spec(self) -> StateSpec:
        return self.norm_attn_norm.attn.state_spec()

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        part = self.norm_attn_norm
        x = x + part.attn(part.norm_1(x), state)
        return x + self.ffn(part.norm_2(x))


class Model(DenseModel):
    names = ModelNames(backbone="transformer", embed="wte", layers="blocks", norm="norm_f")
    layer_names = LayerNames("norm_attn_norm", "ffn", None, None, None)
    layer_type = Layer
    norm_options = {"bias": False}

    def mixer(self, args: Any, index: int) -> nn.Module:
        return NormAttnNorm(FusedAttention(self.attention_options(args, index, fused=True, clip=args.clip)), args)

    def feed_forward(self, args: Any, index: int) -> nn.Module:
        return gated_moe(args, Routing(args.top_k, normalize=args.normalize), Experts)

    def weight_rules(self) -> tuple[Rule, ...]:
        shape = (self.args.num_experts, self.args.intermediate_size, self.args.hidden_size)
        whole = r"\.ffn\.experts\.mlp\."
        return (
            *super().weight_rules(),
            Transform(whole + "(w1|v1)$", lambda w: w.reshape(shape)),
            Transform(whole + "w2$", lambda w: w.reshape(shape).swapaxes(1, 2)),
            Rename(whole + "w1$", ".ffn.switch_mlp.gate_proj.weight"),
            Rename(whole + "v1$", ".ffn.switch_mlp.up_proj.weight"),
            Rename(whole + "w2$", ".ffn.switch_mlp.down_proj.weight"),
            *expert_rules("ffn", ("w1", "v1", "w2")),
        )
