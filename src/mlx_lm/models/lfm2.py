"""LFM2: gated short convolutions and, at some layers, attention. Source: https://arxiv.org/abs/2511.23404."""

from dataclasses import replace
from typing import Any

import mlx.nn as nn

from ..nn import Attention, GatedMLP, LayerNames, ShortConv, named
from .parts import DenseModel, LinearArgs, ModelNames, refuse


class ModelArgs(LinearArgs):
    kinds = "conv", "full_attention"
    aliases = {"norm_eps": "rms_norm_eps"}
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1000000.0
    max_position_embeddings: int = 128000
    tie_word_embeddings: bool = True
    tie_embedding: bool | None = None  # published configs' names for this and for intermediate_size; they win
    block_ff_dim: int | None = None
    block_multiple_of: int = 256
    block_ffn_dim_multiplier: float | None = 1.0
    block_auto_adjust_ff_dim: bool = True
    conv_bias: bool = False
    conv_L_cache: int = 3
    full_attn_idxs: list[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tie_embedding is not None:
            self.tie_word_embeddings = self.tie_embedding
        self.intermediate_size = self.block_ff_dim or self.intermediate_size

    def attends(self, index: int) -> bool:
        return self.full_attn_idxs is None or index in self.full_attn_idxs

    def layer_width(self, index: int) -> int:
        """Two thirds of the given size, times the multiplier, rounded up; or just the given size."""
        size = self.intermediate_size
        if self.block_auto_adjust_ff_dim:
            size = int(2 * size / 3)
            if self.block_ffn_dim_multiplier is not None:
                size = int(self.block_ffn_dim_multiplier * size)
                size = -(-size // self.block_multiple_of) * self.block_multiple_of
        refuse(not 1 <= size < 2**31, f"the feed-forward size comes out as {size}")
        return size


FeedForward = named(GatedMLP, gate_name="w1", up_name="w3", down_name="w2")


class Model(DenseModel):
    names = ModelNames(norm="embedding_norm")
    layer_names = LayerNames("self_attn", "feed_forward", "operator_norm", None, "ffn_norm")
    linear_names = replace(layer_names, mixer="conv")
    attention_type = named(Attention, out_name="out_proj", q_norm_name="q_layernorm", k_norm_name="k_layernorm")
    feed_forward_type = FeedForward
    qk_norm = True

    def linear_mixer(self, args: Any, index: int) -> nn.Module:
        return ShortConv(args.hidden_size, args.conv_L_cache, bias=args.conv_bias)
