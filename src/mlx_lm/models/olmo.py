"""OLMo: norms without parameters, clipped projections. Source: https://arxiv.org/abs/2402.00838."""

from typing import Any

import mlx.nn as nn

from ..nn import LayerNorm
from .config import BiasArgs
from .dense import DenseModel


class ModelArgs(BiasArgs):
    clip_qkv: float | None = None


class Model(DenseModel):
    def norm(self, args: Any) -> nn.Module:
        return LayerNorm(args.hidden_size, 1e-5, affine=False)
