"""Muse Spark: the text tower. Muse Glimmer with gates on residuals and with experts in a narrower space.

Source: https://huggingface.co/meta-models/Muse-Spark-Open-816B-A42B.
"""

from typing import Any

import mlx.core as mx
from mlx import nn

from .. import kernels
from ..kernels import KVView
from ..nn import DecoderLayer, Linear, MoE, RMSNorm, SwitchGLU, UnitRMSNorm
from ..state import LayerState
from . import muse_glimmer
from .parts import Rename, TextTower, expert_rules, usual_routing


class ModelArgs(muse_glimmer.ModelArgs):
    positive = "residual_gate_temperature", "moe_hidden_size"
    max_position_embeddings: int = 1048576
    qk_scale_factor: float = 5.4730064863875
    output_multiplier: float = 0.1767766952966369
    moe_hidden_size: int = 4096
    moe_intermediate_size: int = 4096
    num_local_experts: int = 256
    num_experts_per_tok: int = 8
    routed_scaling_factor: float = 1.0
    mlp_layer_types: list[str] | None = None
    residual_gate_temperature: float = 0.3


class NormedOutAttention(muse_glimmer.GatedAttention):
    """Each head's output is normalized before its gate."""

    def add(self, args: Any, index: int) -> None:
        self.eps = args.rms_norm_eps

    def _attend(self, queries: mx.array, views: tuple[KVView, ...], position: int | mx.array) -> mx.array:
        return kernels.rms_norm(super()._attend(queries, views, position), None, self.eps)


class ScaledInputNorm(nn.Module):
    """norm(x * (1 + weight))."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight, self.eps = mx.zeros((size,)), eps

    def __call__(self, x: mx.array) -> mx.array:
        return kernels.rms_norm(x * (1 + self.weight), None, self.eps)


class NormedExperts(SwitchGLU):
    def __init__(self, args: ModelArgs):
        sizes = args.moe_hidden_size, args.moe_intermediate_size, args.num_local_experts
        super().__init__(*sizes, act=args.hidden_act)
        self.post_expert_norm = ScaledInputNorm(args.moe_hidden_size, args.post_norm_eps)

    def _experts(self, x: mx.array, indices: mx.array, in_order: bool) -> mx.array:
        return self.post_expert_norm(super()._experts(x, indices, in_order))


class PooledMoE(MoE):
    """The experts read and write a narrower space."""

    def __init__(self, args: ModelArgs):
        routing = usual_routing(args, score="sigmoid", epsilon=1e-15, factor=args.output_multiplier)
        super().__init__(args.hidden_size, args.num_local_experts, routing, NormedExperts(args), correction=True)
        self.pre_expert_proj = Linear(args.hidden_size, args.moe_hidden_size, bias=False)
        self.pre_expert_norm = RMSNorm(args.moe_hidden_size, args.rms_norm_eps, offset=1.0)
        self.post_expert_proj = Linear(args.moe_hidden_size, args.hidden_size, bias=False)

    def _visit(self, flat: mx.array, indices: mx.array, weights: mx.array) -> mx.array:
        narrow = self.pre_expert_norm(self.pre_expert_proj(flat))
        return self.post_expert_proj(super()._visit(narrow, indices, weights))


class ResidualGate(nn.Module):
    """sqrt(1 - beta^2) of the stream and beta of the branch, with beta learned for each feature."""

    def __init__(self, size: int, temperature: float):
        super().__init__()
        self.gate, self._temperature = mx.zeros((size,)), temperature

    def __call__(self, stream: mx.array, branch: mx.array) -> mx.array:
        raw = self.gate / self._temperature
        beta = mx.sigmoid(raw)
        alpha = mx.sqrt(mx.maximum(mx.sigmoid(-raw) * (1 + beta), 1e-3))
        return (alpha * stream + beta * branch).astype(stream.dtype)


class Layer(DecoderLayer):
    def add(self, args: ModelArgs, index: int) -> None:
        for name in ("post_attention_residual_gate", "post_feedforward_residual_gate"):
            self[name] = ResidualGate(args.hidden_size, args.residual_gate_temperature)
        self.post_attention_layernorm = UnitRMSNorm(args.post_norm_eps)
        self.post_feedforward_layernorm = ScaledInputNorm(args.hidden_size, args.post_norm_eps)

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        y = self.post_attention_layernorm(self._mix(self.input_layernorm(x), state))
        x = self.post_attention_residual_gate(x, y)
        y = self.post_feedforward_layernorm(self._feed(self.pre_feedforward_layernorm(x)))
        return self.post_feedforward_residual_gate(x, y)


class TextModel(muse_glimmer.TextModel):
    layer_type = Layer
    attention_type = NormedOutAttention
    rules = (*expert_rules(), Rename(r"\.mlp\.experts\.post_expert_norm\.", ".mlp.switch_mlp.post_expert_norm."))

    def experts(self, args: Any) -> nn.Module:
        return PooledMoE(args)


class Model(TextTower):
    text_model = TextModel
