"""Llama and what computes like it (Mistral, SmolLM, Yi, ...). Source: https://arxiv.org/abs/2407.21783."""

from dataclasses import dataclass
from typing import Any

from ..nn import Attention, AttentionOptions, DecoderLayer, GatedMLP, RMSNorm, make_rope
from .base import CausalLM, DecoderArgs


@dataclass
class ModelArgs(DecoderArgs):
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    layer_types: list[str] | None = None

    def window(self, index: int) -> int | None:
        """Mistral slides on every layer; a list of layer types says which."""
        if self.layer_types is not None and self.layer_types[index] != "sliding_attention":
            return None
        return self.sliding_window


class Model(CausalLM):
    @staticmethod
    def layer(args: Any, index: int) -> DecoderLayer:
        heads, kv_heads, head_dim = args.heads
        options = AttentionOptions(
            hidden_size=args.hidden_size,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            rope=make_rope(head_dim, args.rope_parameters()),
            window=args.window(index),
            bias=args.attention_bias,
            out_bias=args.attention_bias,
        )
        return DecoderLayer(
            mixer=Attention(options),
            feed_forward=GatedMLP(args.hidden_size, args.intermediate_size, args.hidden_act, bias=args.mlp_bias),
            norm=lambda: RMSNorm(args.hidden_size, args.rms_norm_eps),
        )
