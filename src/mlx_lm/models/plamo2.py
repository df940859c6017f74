"""PLaMo 2: Mamba-2 layers and attention in turn, a norm on each side of each branch. https://arxiv.org/abs/2509.04897."""

from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..nn import Attention, AttentionOptions, CausalConv, DecoderLayer, LayerNames, Linear, RMSNorm
from ..state import ArraySlot, LayerState, RecurrentSpec, StateSpec, gather_slot, scatter_slots
from .config import DecoderArgs
from .dense import DenseModel
from .weights import Rename

OFFSETS = {"pre_mixer_norm": 1.0, "post_mixer_norm": 1 / 5, "pre_mlp_norm": 1.0, "post_mlp_norm": 5**-1.5}


class ModelArgs(DecoderArgs):
    aliases: ClassVar = {"hidden_size_per_head": "head_dim"}
    num_key_value_heads: int | None = 4
    head_dim: int | None = 128
    tie_word_embeddings: bool = True
    attention_window_size: int = 2048
    full_attention_idx: list[int] | None = None
    mamba_d_state: int = 64
    mamba_d_conv: int = 4
    mamba_num_heads: int = 64
    mamba_step: int = 2
    mamba_enabled: bool = True

    def is_linear(self, index: int) -> bool:
        if not self.mamba_enabled:
            return False
        half = self.mamba_step // 2
        return (
            index != self.num_hidden_layers - 1 if self.num_hidden_layers <= half else index % self.mamba_step != half
        )

    def window(self, index: int) -> int | None:
        """A query sees itself and `attention_window_size` tokens before it."""
        return None if index in (self.full_attention_idx or ()) else self.attention_window_size + 1


class NormedMamba(nn.Module):
    """Mamba-2 with one group, whose maps come from the convolved values, normalized; gate and values go by head."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        heads, size, states = args.mamba_num_heads, args.head_dim or 0, args.mamba_d_state
        inner, rank = heads * size, max(64, args.hidden_size // 16)
        self._sizes, self._eps = (heads, size, states), args.rms_norm_eps
        self.in_proj = Linear(args.hidden_size, 2 * inner, bias=False)
        self.conv1d = CausalConv(inner, args.mamba_d_conv, bias=False)
        self.bcdt_proj = Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj = Linear(rank, heads, bias=False)
        for name in ("dt_bias", "A_log", "D"):
            self[name] = mx.ones((heads,))
        for name, width in (("B", states), ("C", states), ("dt", rank)):
            self[f"{name}_norm_weight"] = mx.ones((width,))
        self.out_proj = Linear(inner, args.hidden_size, bias=False)

    def state_spec(self) -> StateSpec:
        """What the layer keeps for a sequence: the convolution's last inputs and the state space."""
        return RecurrentSpec((self.conv1d.slot(), ArraySlot(self._sizes, mx.float32)))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        heads, size, states = self._sizes
        gate, values = mx.split(mx.unflatten(self.in_proj(x), -1, (heads, -1)), 2, axis=-1)
        values, tail = self.conv1d(values.flatten(2), gather_slot(state, 0))
        values = kernels.activation(values, "silu")
        parts = mx.split(self.bcdt_proj(values), [states, 2 * states], axis=-1)
        named = zip(("B", "C", "dt"), parts, strict=True)
        b, c, dt = (kernels.rms_norm(part, self[f"{name}_norm_weight"], self._eps) for name, part in named)
        dt = self.dt_proj(dt).astype(mx.float32) + self["dt_bias"].astype(mx.float32)
        y, memory = kernels.selective_scan(
            mx.unflatten(values, -1, (heads, size)),
            nn.softplus(dt),
            -mx.exp(self["A_log"].astype(mx.float32)),
            b[:, :, None],
            c[:, :, None],
            self["D"],
            gather_slot(state, 1),
        )
        scatter_slots(state, [tail, memory], x.shape[1])
        return self.out_proj((y * kernels.activation(gate, "silu")).flatten(2))


class HeadWeightedAttention(Attention):
    """Queries and keys are normalized, with weights for each head."""

    def __init__(self, options: AttentionOptions):
        super().__init__(options)
        self.q_weight = mx.ones((options.num_heads, options.head_dim))
        self.k_weight = mx.ones((options.num_kv_heads, options.head_dim))

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array | None]:
        queries, keys, values, gate = super()._project(x)
        queries = kernels.rms_norm(queries, None, 1e-6) * self.q_weight[:, None]
        keys = kernels.rms_norm(keys, None, 1e-6) * self.k_weight[:, None]
        return queries, keys, values, gate


class OffsetNorms(DecoderLayer):
    """Each norm has a number of its own that is added to its weights."""

    def add(self, args: Any, index: int) -> None:
        for name, offset in OFFSETS.items():
            self[name] = RMSNorm(args.hidden_size, args.rms_norm_eps, offset=offset)


class Model(DenseModel):
    layer_names = LayerNames("mixer", "mlp", *OFFSETS)
    layer_type = OffsetNorms
    attention_type = HeadWeightedAttention
    attention: ClassVar = {"fused": True}
    norm_options: ClassVar = {"offset": 1.0}
    feed_forward_options: ClassVar = {"fused": True}
    rules = (Rename(r"\.layers\.layers\.", ".layers."),)

    def linear_mixer(self, args: Any, index: int) -> nn.Module:
        return NormedMamba(args)
