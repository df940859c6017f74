"""MiniMax-01: linear attention that fades at a fixed rate for each head, softmax attention between, experts.

Source: https://arxiv.org/abs/2501.08313.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..nn import DecoderLayer, Linear, RMSNorm
from ..state import ArraySlot, LayerState, RecurrentSpec, StateSpec, gather_slot, scatter_slots
from . import mixtral
from .parts import Drop, LinearArgs


class ModelArgs(LinearArgs):
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096 * 32
    rope_theta: float = 1000000.0
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    full_attn_alpha_factor: float = 1.0
    full_attn_beta_factor: float = 1.0
    linear_attn_alpha_factor: float = 1.0
    linear_attn_beta_factor: float = 1.0
    mlp_alpha_factor: float = 1.0
    mlp_beta_factor: float = 1.0

    def attends(self, index: int) -> bool:
        return index % 2 == 0


class LightningAttention(nn.Module):
    """S <- S*exp(-slope) + v k^T; y = S q, for each head; x (B, L, D). Source: https://arxiv.org/abs/2405.17381."""

    def __init__(self, args: ModelArgs, index: int):
        super().__init__()
        heads, _, size = args.heads
        self.num_heads, self.head_dim, self.act = heads, size, args.hidden_act
        self.qkv_proj = Linear(args.hidden_size, 3 * heads * size, bias=False)
        self.out_proj = Linear(heads * size, args.hidden_size, bias=False)
        self.output_gate = Linear(args.hidden_size, heads * size, bias=False)
        self.norm = RMSNorm(heads * size, 1e-6)
        depth = 1 - index / (args.num_hidden_layers - 1 + 1e-5) + 1e-5
        self._slopes = [depth * 2 ** (-8 * (h + 1) / heads) for h in range(heads)]

    def state_spec(self) -> StateSpec:
        """What the layer keeps for a sequence: the matrix of each head."""
        return RecurrentSpec((ArraySlot((self.num_heads, self.head_dim, self.head_dim), mx.float32),))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        qkv = kernels.activation(self.qkv_proj(x), self.act)
        q, k, v = mx.split(mx.unflatten(qkv, -1, (self.num_heads, 3 * self.head_dim)), 3, axis=-1)
        steps, fading = mx.ones(q.shape[:3]), -mx.array(self._slopes, mx.float32)
        y, memory = kernels.selective_scan(v, steps, fading, k, q, None, gather_slot(state, 0))
        scatter_slots(state, [memory], x.shape[1])
        return self.out_proj(mx.sigmoid(self.output_gate(x)) * self.norm(y.flatten(2)))


class Layer(DecoderLayer):
    """Residuals start from the normalized input and are weighted on both sides."""

    def add(self, args: Any, index: int) -> None:
        kind = "linear_attn" if args.is_linear(index) else "full_attn"
        self._mixer_factors = getattr(args, f"{kind}_alpha_factor"), getattr(args, f"{kind}_beta_factor")
        self._feed_factors = args.mlp_alpha_factor, args.mlp_beta_factor

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        h, (keep, add) = self["input_layernorm"](x), self._mixer_factors
        x = h * keep + self._mix(h, state) * add
        h, (keep, add) = self["post_attention_layernorm"](x), self._feed_factors
        return h * keep + self._feed(h) * add


class Model(mixtral.Model):
    layer_type = Layer
    rules = (Drop(r"\.self_attn\.(slope_rate|query_decay|key_decay|diagonal_decay)$"), *mixtral.Model.rules)

    def linear_mixer(self, args: Any, index: int) -> nn.Module:
        return LightningAttention(args, index)
