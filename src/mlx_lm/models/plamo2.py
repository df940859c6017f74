"""PLaMo 2: Mamba-2 layers and attention in turn, a norm on each side of each branch. https://arxiv.org/abs/2509.04897."""

from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..nn import Attention, AttentionOptions, CausalConv, DecoderLayer, LayerNames, Linear, Mamba2, RMSNorm
from .mamba2 import mamba2_options
from .parts import DecoderArgs, DenseModel, Rename

OFFSETS = {"pre_mixer_norm": 1.0, "post_mixer_norm": 1 / 5, "pre_mlp_norm": 1.0, "post_mlp_norm": 5**-1.5}


class ModelArgs(DecoderArgs):
    aliases = {"hidden_size_per_head": "head_dim"}
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
        half, last = self.mamba_step // 2, self.num_hidden_layers - 1
        return index != last if last < half else index % self.mamba_step != half

    def window(self, index: int) -> int | None:
        """A query sees itself and `attention_window_size` tokens before it."""
        return None if index in (self.full_attention_idx or ()) else self.attention_window_size + 1


class NormedMamba(Mamba2):
    """One group, whose maps and steps come from the convolved values, normalized; gate and values go by head."""

    def __init__(self, args: ModelArgs):
        o = mamba2_options(args, groups=1, norm=False, act="silu")
        super().__init__(o)
        inner, rank = o.num_heads * o.head_dim, max(64, args.hidden_size // 16)
        self._eps = args.rms_norm_eps
        self.in_proj = Linear(args.hidden_size, 2 * inner, bias=False)
        self.conv1d = CausalConv(inner, o.kernel, bias=False)
        self.bcdt_proj = Linear(inner, rank + 2 * o.state_size, bias=False)
        self.dt_proj = Linear(rank, o.num_heads, bias=False)
        for name, width in (("B", o.state_size), ("C", o.state_size), ("dt", rank)):
            self[f"{name}_norm_weight"] = mx.ones((width,))

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array | None]:
        gate, values = mx.split(mx.unflatten(self.in_proj(x), -1, (self._options.num_heads, -1)), 2, axis=-1)
        return gate.flatten(2), values.flatten(2), None

    def _maps(self, mixed: mx.array, dt: mx.array | None) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        size = self._options.state_size
        named = zip(("B", "C", "dt"), mx.split(self.bcdt_proj(mixed), [size, 2 * size], axis=-1), strict=True)
        b, c, steps = (kernels.rms_norm(part, self[f"{name}_norm_weight"], self._eps) for name, part in named)
        return mixed, b, c, self.dt_proj(steps)


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
    attention_type: ClassVar[type[Attention]] = HeadWeightedAttention
    attention = {"fused": True}
    norm_options = {"offset": 1.0}
    feed_forward_options = {"fused": True}
    rules = (Rename(r"\.layers\.layers\.", ".layers."),)

    def linear_mixer(self, args: Any, index: int) -> nn.Module:
        return NormedMamba(args)
