"""Beam: gated attention with windows, residuals that weigh all branches alike, DeepSeek-V3's routing.

Layers without a rope, usually the full ones, have queries that grow with their position. Source:
https://huggingface.co/reflection/Beam-1.0-501B-A23B.
"""

from typing import Any

import mlx.core as mx

from ..nn import SANDWICH_NORM, DecoderLayer, GatedAttention
from ..state import LayerState
from .config import BiasArgs, GroupedArgs
from .dense import DenseModel, KindRopeArgs
from .weights import expert_rules


class ModelArgs(KindRopeArgs, GroupedArgs, BiasArgs):
    head_dim: int | None = 128
    max_position_embeddings: int = 8192
    sliding_window: int | None = 512
    moe_intermediate_size: int = 2560
    num_experts: int = 256
    num_experts_per_tok: int = 8
    mlp_layer_types: list[str] | None = None
    first_k_dense_replace = 3  # without `mlp_layer_types`
    n_group: int | None = 8
    topk_group: int | None = 4
    routed_scaling_factor: float = 2.5
    final_logit_softcapping: float | None = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rope_by_layer_type is None:
            self.rope_by_layer_type = {"sliding_attention": {"rope_theta": self.rope_theta}}

    def slides(self, index: int) -> bool:
        return (index + 1) % 6 != 0 and index + 1 < self.num_hidden_layers


class BeamAttention(GatedAttention):
    """The gate has a bias for each head; without a rope, queries are multiplied by (1 + (p + 1) / 2048) ** 0.1."""

    def add(self, args: Any, index: int) -> None:
        self.gate_bias = mx.zeros((self._options.num_heads,))

    def _gated(self, out: mx.array, gate: mx.array) -> mx.array:
        return super()._gated(out, gate + mx.repeat(self.gate_bias, self._options.head_dim))

    def _place(self, queries: mx.array, keys: mx.array, position: int | mx.array) -> tuple[mx.array, mx.array]:
        if self._options.rope is not None:
            return super()._place(queries, keys, position)
        start = position if isinstance(position, int) else position[:, None, None, None]
        places = mx.arange(1, queries.shape[2] + 1)[:, None] + start
        return (queries * (1 + places / 2048) ** 0.1).astype(queries.dtype), keys


class Layer(DecoderLayer):
    """After n branches the stream is the sum of n + 1 parts, each divided by the root of n + 1."""

    def add(self, args: Any, index: int) -> None:
        self.number = index

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        x = self._join(x, self.post_attention_layernorm(self._mix(self.input_layernorm(x), state)), 1)
        return self._join(x, self.post_feedforward_layernorm(self._feed(self.pre_feedforward_layernorm(x))), 2)

    def _join(self, x: mx.array, branch: mx.array, which: int) -> mx.array:
        parts = 2 * self.number + which + 1
        return branch * parts**-0.5 + x * ((parts - 1) / parts) ** 0.5


class Model(DenseModel):
    layer_names = SANDWICH_NORM
    attention_type = BeamAttention
    layer_type = Layer
    qk_norm = True
    moe_options = {"correction": True}
    rules = expert_rules()
