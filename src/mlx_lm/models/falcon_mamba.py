"""Falcon Mamba: Mamba with norms on the time steps and the two maps. Source: https://arxiv.org/abs/2410.05355."""

from typing import Any

import mlx.core as mx

from .. import kernels
from ..nn import Mamba, named
from . import mamba


class ModelArgs(mamba.ModelArgs):
    mixer_rms_eps: float = 1e-6


class NormedMamba(Mamba):
    eps = 1e-6

    def normed(self, dt: mx.array, b: mx.array, c: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        dt, b, c = (kernels.rms_norm(a, None, self.eps) for a in (dt, b, c))
        return dt, b, c


class Model(mamba.Model):
    def mixer(self, args: Any) -> Mamba:
        return named(NormedMamba, eps=args.mixer_rms_eps)(self.options(args))
