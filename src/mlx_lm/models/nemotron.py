"""Nemotron 3 and 4: layer norms that store weight - 1, squared ReLU without gate. https://arxiv.org/abs/2402.16819."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..nn import LayerNorm
from . import arcee


class ModelArgs(arcee.ModelArgs):
    norm_eps: float = 1e-5
    partial_rotary_factor: float = 0.5


class LayerNorm1P(LayerNorm):
    """A layer norm whose weight is stored less one."""

    def __call__(self, x: mx.array) -> mx.array:
        return kernels.layer_norm(x, self["weight"] + 1, self["bias"], self.eps)


class Model(arcee.Model):
    def norm(self, args: Any) -> nn.Module:
        return LayerNorm1P(args.hidden_size, args.norm_eps)
