"""Hunyuan dense: norms on heads after their rotation, a rope base raised by alpha. https://github.com/Tencent-Hunyuan."""

from typing import Any

import mlx.core as mx

from ..nn import Attention, RMSNorm, RopeParameters
from .config import DecoderArgs
from .dense import DenseModel


class ModelArgs(DecoderArgs):
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False

    def layer_rope(self, index: int) -> RopeParameters:
        rope = self.rope_parameters()
        alpha = rope.scaling.get("alpha")
        if rope.kind != "dynamic" or not alpha:
            return rope
        dims = self.heads[2]
        return RopeParameters("default", rope.theta * rope.number("alpha") ** (dims / (dims - 2)))


class RotatedNorms(Attention):
    def add(self, args: Any, index: int) -> None:
        for name in ("query_layernorm", "key_layernorm"):
            self[name] = RMSNorm(args.heads[2], args.rms_norm_eps)

    def _place(self, queries: mx.array, keys: mx.array, position: int | mx.array) -> tuple[mx.array, mx.array]:
        queries, keys = super()._place(queries, keys, position)
        return self.query_layernorm(queries), self.key_layernorm(keys)


class Model(DenseModel):
    attention_type = RotatedNorms
