"""XGLM: BioGPT's decoder with sinusoidal positions. Source: https://arxiv.org/abs/2112.10668."""

import math
from typing import Any

import mlx.core as mx

from .base import CausalLM, DecoderArgs, ModelNames
from .biogpt import Model as BioGpt
from .positions import AddedPositions


class ModelArgs(DecoderArgs):
    aliases = {"attention_heads": "num_attention_heads"}
    layer_norm_eps: float = 1e-5
    hidden_act: str = "gelu"
    tie_word_embeddings: bool = True
    scale_embedding: bool = True


class Sinusoids(AddedPositions):
    """Sines, then cosines, of the position over a geometric series of wavelengths."""

    first_row = 2

    def __init__(self, model: CausalLM, args: Any):
        super().__init__(model, args)
        self._size = args.hidden_size

    def at(self, rows: mx.array) -> mx.array:
        half = self._size // 2
        angles = rows[..., None] * mx.exp(mx.arange(half) * -(math.log(10000) / (half - 1)))
        waves = mx.concatenate([mx.sin(angles), mx.cos(angles)], axis=-1)
        return mx.pad(waves, [(0, 0)] * (waves.ndim - 1) + [(0, self._size % 2)])


class Model(BioGpt):
    names = ModelNames(norm="layer_norm")
    backbone_type = Sinusoids
