"""Llama 4: chunked attention, layers without rope whose queries grow, experts in some layers.

Source: https://ai.meta.com/blog/llama-4-multimodal-intelligence.
"""

from dataclasses import replace
from typing import Any

import mlx.core as mx

from ..kernels import KVView
from ..nn import BiasedAttention, LayerNames, MoE, UnitRMSNorm
from ..nn.attention import Attention, RotatedNormAttention
from .ministral3 import GrowingQueries
from .parts import DecoderArgs, DenseModel, Rename, Transform, refuse, split_pair

_KINDS = ("full_attention", "chunked_attention")


class ModelArgs(DecoderArgs):
    aliases = {"interleave_moe_layer_step": "decoder_sparse_step"}
    per_layer = {"layer_types": _KINDS}
    intermediate_size_mlp: int = 16384
    head_dim: int | None = 128
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 131072
    rope_theta: float = 500000.0
    attention_bias: bool = False
    num_experts_per_tok: int = 1
    num_local_experts: int = 16
    moe_layers: list[int] | None = None
    decoder_sparse_step: int = 1
    use_qk_norm: bool = True
    no_rope_layers: list[int] | None = None  # 1 where there is a rope
    no_rope_layer_interval: int = 4
    layer_types: list[str] | None = None
    attention_chunk_size: int | None = 8192
    attn_temperature_tuning: bool | int = True
    floor_scale: int = 8192
    attn_scale: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.layer_types = self.layer_types or [_KINDS[self.has_rope(i)] for i in range(self.num_hidden_layers)]

    def has_experts(self, index: int) -> bool:
        return super().has_experts(index) if self.moe_layers is None else index in self.moe_layers

    def layer_width(self, index: int) -> int:
        return self.intermediate_size_mlp

    def window(self, index: int) -> int | None:
        """A chunk's first positions see less than this, none sees more."""
        assert self.layer_types is not None
        return self.attention_chunk_size if self.layer_types[index] == "chunked_attention" else None


class ChunkedAttention(RotatedNormAttention, BiasedAttention):
    """A query sees what came before it in its own chunk of `window` positions; norms have no weight."""

    def rule(self, query: mx.array, key: mx.array, seen: mx.array | None, view: KVView) -> mx.array | None:
        chunk = self._options.window or 1
        same = key // chunk == query // chunk
        return same if seen is None else same & seen

    def _attend(self, queries: mx.array, views: tuple[KVView, ...], position: int | mx.array) -> mx.array:
        chunk = self._options.window
        if chunk is None or (isinstance(position, int) and position + queries.shape[2] <= chunk):
            return Attention._attend(self, queries, views, position)  # within the first chunk no mask is needed
        return super()._attend(queries, views, position)


class Experts(MoE):
    """Weights multiply what goes into an expert, not what comes out."""

    router_name, experts_name, shared_name = "router", "experts", "shared_expert"

    def _visit(self, flat: mx.array, indices: mx.array, weights: mx.array) -> mx.array:
        scaled = (flat[:, None] * weights[..., None].astype(flat.dtype)).flatten(0, 1)
        y = self.experts(scaled, indices.reshape(-1, 1))
        return y.reshape(*indices.shape, -1).sum(axis=1)


class Model(DenseModel):
    layer_names = LayerNames(feed_forward="feed_forward")
    traditional_rope = True
    moe_type = Experts
    moe_options = {"shared": "intermediate_size"}
    routing_options = {"score": "sigmoid", "normalize": False}
    rules = (
        Rename(r"^output\.", "lm_head."),
        Transform(r"\.experts\.(gate_up|down)_proj$", lambda w: w.swapaxes(1, 2)),
        split_pair(r"(.*\.experts)\.gate_up_proj", r"\1", 1),
        Rename(r"(\.experts\.down_proj)$", r"\1.weight"),
    )

    def mixer(self, args: Any, index: int) -> Attention:
        options = self.attention_options(args, index)
        if options.rope is None and options.window is None:
            mixer = GrowingQueries(options)
            mixer.beta = args.attn_scale if args.attn_temperature_tuning else 0.0
            mixer.trained, mixer.first = args.floor_scale, 1
            return mixer
        refuse(options.rope is None, "a layer without rope cannot have chunked attention")
        norm = (lambda _: UnitRMSNorm(args.rms_norm_eps)) if args.use_qk_norm else None
        return ChunkedAttention(replace(options, qk_norm=norm))
