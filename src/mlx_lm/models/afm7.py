"""Apple's on-device foundation model: the last layers read the keys and values of the last layer that has any.

Source: https://arxiv.org/abs/2507.13575, and the model's description in Apple's tamm library (`AFMTextV7`).
"""

from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import Linear, RMSNorm
from .parts import CausalLM, DecoderArgs, DenseModel, ModelNames, PassingBackbone, PassingLayer, refuse
from .per_layer import ReadingAttention


class ModelArgs(DecoderArgs):
    aliases = {
        "hidden_dim": "hidden_size", "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads",
    }  # fmt: skip
    rms_norm_eps: float = 1e-5
    rope_theta: float = 50000.0
    tie_word_embeddings: bool = True
    num_kv_reuse_layers: int = 0
    hidden_dim_scale_factor: float = 3.25

    def __post_init__(self) -> None:
        self.intermediate_size = round(self.hidden_size * self.hidden_dim_scale_factor)
        super().__post_init__()
        possible = 0 <= self.num_kv_reuse_layers < self.num_hidden_layers and self.intermediate_size > 0
        refuse(not possible, "num_kv_reuse_layers or hidden_dim_scale_factor is not possible")


def eight_bits(x: mx.array, scale: mx.array) -> mx.array:
    """The nearest whole multiple of `scale` from -128 to 127: what the model was trained to read back."""
    return (mx.clip(mx.round(x / scale), -128, 127) * scale).astype(x.dtype)


class SharedAttention(ReadingAttention):
    """Heads are normed after their rotation."""

    out_name = "out_proj"

    def add(self, args: Any, index: int) -> None:
        heads, _, size = args.heads
        self.reads = index >= args.num_hidden_layers - args.num_kv_reuse_layers
        self.q_norm = RMSNorm(size, args.rms_norm_eps)
        if self.reads:
            del self["qkv_proj"]
            self.q_proj = Linear(args.hidden_size, heads * size, bias=False)
        else:
            self.k_norm = RMSNorm(size, args.rms_norm_eps)
            self.quant_key_scale, self.quant_value_scale = mx.array(1.0), mx.array(1.0)

    def _kept(self, x: mx.array, position: int | mx.array) -> tuple[mx.array, mx.array, mx.array]:
        queries, keys, values, _ = self._project(x)
        queries, keys = self._place(queries, keys, position)
        keys = eight_bits(self.k_norm(keys), self.quant_key_scale)
        return self.q_norm(queries), keys, eight_bits(values, self.quant_value_scale)

    def _asked(self, x: mx.array, position: int | mx.array) -> mx.array:
        return self.q_norm(self._turned(self._split(self.q_proj(x)), position))


class SharingBackbone(PassingBackbone):
    def __init__(self, model: CausalLM, args: Any):
        super().__init__(model, args)
        first = args.num_hidden_layers - args.num_kv_reuse_layers
        self.layers, self.kv_reuse_layers = self.layers[:first], self.layers[first:]

    def chain(self) -> list[nn.Module]:
        return [*self.layers, *self.kv_reuse_layers]


class Model(DenseModel):
    names = ModelNames(embed="embedding", norm="output_norm")
    backbone_type = SharingBackbone
    layer_type = PassingLayer
    traditional_rope = True
    attention_type = SharedAttention
    attention = {"fused": True}

    @property
    def layers(self) -> list[nn.Module]:
        return self.model.chain()
