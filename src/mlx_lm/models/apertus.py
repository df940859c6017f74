"""Apertus: a learned activation, norms on heads. Source: https://arxiv.org/abs/2509.14233."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..nn import MLP, LayerNames
from .parts import BiasArgs, DenseModel


class ModelArgs(BiasArgs):
    fixed = {"hidden_act": ("xielu",)}
    rms_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        self.hidden_act = "silu"  # unused
        super().__post_init__()


class XIELU(nn.Module):
    """x*x and expm1 on the two sides of zero, with learned weights. Source: https://arxiv.org/abs/2411.13010."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha_p, self.alpha_n = mx.zeros((1,)), mx.zeros((1,))
        self.beta, self.eps = mx.array(0.5), mx.array(-1e-6)

    def __call__(self, x: mx.array) -> mx.array:
        negative = (mx.expm1(mx.minimum(x, self.eps)) - x) * (self.beta + nn.softplus(self.alpha_n))
        return (mx.where(x > 0, nn.softplus(self.alpha_p) * x * x, negative) + self.beta * x).astype(x.dtype)


class FeedForward(MLP):
    def __init__(self, *sizes: Any, **options: Any):
        super().__init__(*sizes, **options)
        self.act_fn = XIELU()

    def __call__(self, x: mx.array) -> mx.array:
        return self["down_proj"](self["act_fn"](self["up_proj"](x)))


class Model(DenseModel):
    layer_names = LayerNames(pre_mixer="attention_layernorm", pre_feed_forward="feedforward_layernorm")
    qk_norm = True
    feed_forward_type = FeedForward
