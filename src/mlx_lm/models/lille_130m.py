"""Lille: Llama whose norms belong to the branches, rotation by neighbours. https://huggingface.co/Nikity/lille-130m-instruct."""

from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import Attention, GatedMLP, LayerNames, RMSNorm
from ..state import LayerState
from .parts import DecoderArgs, DenseModel, ModelNames


class ModelArgs(DecoderArgs):
    aliases = {
        "block_size": "max_position_embeddings", "layer_norm_eps": "rms_norm_eps", "n_kv_heads": "num_key_value_heads",
    }  # fmt: skip
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.intermediate_size = 256 * round(8 * self.hidden_size / 3 / 256)


class NormedAttention(Attention):
    out_name = "out_proj"

    def add(self, args: Any, index: int) -> None:
        self.norm = RMSNorm(args.hidden_size, args.rms_norm_eps)

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        return super().__call__(self.norm(x), state)


class NormedMLP(GatedMLP):
    def __init__(self, args: ModelArgs):
        super().__init__(args.hidden_size, args.intermediate_size, args.hidden_act)
        self.norm = RMSNorm(args.hidden_size, args.rms_norm_eps)

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(self.norm(x))


class Model(DenseModel):
    names = ModelNames(backbone="transformer", embed="tok_embeddings")
    layer_names = LayerNames("attention", "feed_forward", None, None, None)
    traditional_rope = True
    attention_type = NormedAttention
    attention = {"fused": True}

    def feed_forward(self, args: Any, index: int) -> nn.Module:
        return NormedMLP(args)
