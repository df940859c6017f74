"""Ring-linear: Ling 2's experts, with attention that fades at a fixed rate in most layers.

Source: https://arxiv.org/abs/2510.19338.
"""

from typing import Any

import mlx.core as mx
from mlx import nn

from .. import kernels
from ..nn import AttentionOptions, GatedRMSNorm, Linear, alibi_slopes
from ..state import ArraySlot, LayerState, RecurrentSpec, StateSpec, gather_slot, offsets, scatter_slots
from . import bailing_moe
from .config import refuse


class ModelArgs(bailing_moe.ModelArgs):
    fixed = {"linear_silu": (False,), "use_linear_silu": (False,), **bailing_moe.ModelArgs.fixed}
    layer_group_size: int = 1
    group_norm_size: int = 1
    linear_rope: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.attention_bias = self.attention_bias or self.attention_out_bias
        heads, _, size = self.heads
        refuse(heads * size % self.group_norm_size, "group_norm_size is not possible")

    def is_linear(self, index: int) -> bool:
        """The last layer of each group attends, and so do layers after the last whole group."""
        size, grouped = self.layer_group_size, self.num_hidden_layers // self.layer_group_size
        return (index + 1) % size != 0 and index < grouped * size


class FadingAttention(bailing_moe.FusedAttention):
    """S <- S*exp(-slope) + v k^T; y = S q, for each head, normed in groups and gated."""

    def __init__(self, options: AttentionOptions, args: ModelArgs, index: int):
        super().__init__(options)
        o, size = options, options.num_heads * options.head_dim
        self.g_proj = Linear(o.hidden_size, size, bias=False)
        groups = args.group_norm_size
        self.g_norm = GatedRMSNorm(size, args.rms_norm_eps, groups=groups, norm_first=True, gate_act="sigmoid")
        # Layers are counted from 0, and still the published code takes 1 off.
        depth = 1 - (index - 1) / max(args.num_hidden_layers - 1, 1) + 1e-5
        self._slopes = [depth * slope for slope in alibi_slopes(o.num_heads)]

    def state_spec(self) -> StateSpec:
        """What the layer keeps for a sequence: the matrix of each head."""
        o = self._options
        return RecurrentSpec((ArraySlot((o.num_heads, o.head_dim, o.head_dim), mx.float32),))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        q, k, v, _ = self._project(x)
        q, k = self._place(q, k, offsets(state))
        q, k, v = (a.transpose(0, 2, 1, 3) for a in (q * self.scale, k, v))  # (B, L, H, D)
        steps, fading = mx.ones(q.shape[:3]), -mx.array(self._slopes, mx.float32)
        y, memory = kernels.selective_scan(v, steps, fading, k, q, None, gather_slot(state, 0))
        scatter_slots(state, [memory], x.shape[1])
        return self.dense(self.g_norm(y.flatten(2), self.g_proj(x)))


class Model(bailing_moe.Model):
    def linear_mixer(self, args: Any, index: int) -> nn.Module:
        rope = {} if args.linear_rope else {"rope": None}
        options = self.attention_options(args, index, num_kv_heads=args.heads[0], **rope)
        return FadingAttention(options, args, index)
