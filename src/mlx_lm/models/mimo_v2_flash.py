"""MiMo-V2-Flash: values smaller than keys, sliding layers with sinks and heads of their own, sigmoid routing.

Source: https://arxiv.org/abs/2601.02780.
"""

from typing import Any

import mlx.core as mx

from .. import kernels
from ..kernels import KVView
from ..nn import Attention, Linear
from ..state import KVSpec, StateSpec
from .laguna import LayerTypeArgs
from .parts import DenseModel, Drop, Rename, expert_rules


class ModelArgs(LayerTypeArgs):
    fixed = {"scoring_func": ("sigmoid",)}
    aliases = {"swa_rope_theta": "rope_local_base_freq"}
    multiples = {"n_routed_experts": "n_group"}
    per_layer = {"hybrid_layer_pattern": (), "moe_layer_freq": ()}
    first_k_dense_replace = 1  # without one of the two lists
    head_dim: int | None = 192
    v_head_dim: int = 128
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 262144
    rope_theta: float = 5000000.0
    rope_local_base_freq: float | None = 10000.0
    partial_rotary_factor: float = 0.334
    sliding_window: int | None = 129
    sliding_window_size: int | None = None
    attention_value_scale: float | None = 0.707
    swa_num_key_value_heads: int | None = None
    add_swa_attention_sink_bias: bool = True
    add_full_attention_sink_bias: bool = False
    hybrid_layer_pattern: list[int] | None = None
    moe_layer_freq: list[int] | None = None
    n_routed_experts: int = 256
    num_experts_per_tok: int = 8
    moe_intermediate_size: int = 2048
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    n_group: int = 1
    topk_group: int = 1

    def __post_init__(self) -> None:
        if self.sliding_window_size is not None:  # counts the positions before the query, without itself
            self.sliding_window = self.sliding_window_size + 1
        super().__post_init__()

    def slides(self, index: int) -> bool:
        listed = self.hybrid_layer_pattern
        return index > 0 and (index + 1) % 6 > 0 if listed is None else any(listed[index : index + 1])

    def layer_heads(self, index: int) -> tuple[int, int, int]:
        heads, kv_heads, size = self.heads
        return heads, kv_heads if self.window(index) is None else self.swa_num_key_value_heads or 2 * kv_heads, size


class NarrowValues(Attention):
    """Values of another size than keys, scaled; sinks are `attention_sink_bias`."""

    def add(self, args: Any, index: int) -> None:
        """Replaces the projections that values go through."""
        o, scale, slides = self._options, args.attention_value_scale, args.layer_type(index) == "sliding_attention"
        self._value_dim, self._value_scale = args.v_head_dim, 1.0 if scale is None else scale
        self.v_proj = Linear(o.hidden_size, o.num_kv_heads * self._value_dim, bias=o.bias)
        self.o_proj = Linear(o.num_heads * self._value_dim, o.hidden_size, bias=False)
        if args.add_swa_attention_sink_bias if slides else args.add_full_attention_sink_bias:
            self.attention_sink_bias = mx.zeros((o.num_heads,))

    def state_spec(self) -> StateSpec:
        o = self._options
        return KVSpec(o.num_kv_heads, o.head_dim, self._value_dim, o.window)

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array | None]:
        heads = (
            mx.unflatten(self[f"{name}_proj"](x), -1, (-1, self._value_dim if name == "v" else self._options.head_dim))
            for name in "qkv"
        )
        queries, keys, values = (a.transpose(0, 2, 1, 3) for a in heads)
        return queries, keys, values * self._value_scale, None

    def _attend(self, queries: mx.array, views: tuple[KVView, ...], position: int | mx.array) -> mx.array:
        return kernels.attention(queries, views, scale=self.scale, sinks=self.get("attention_sink_bias"))


class Model(DenseModel):
    attention_type = NarrowValues
    moe_options = {"correction": True}
    rules = (Drop(r"^model\.mtp\."), Rename(r"\.self_attn\.sinks$", ".self_attn.attention_sink_bias"), *expert_rules())
