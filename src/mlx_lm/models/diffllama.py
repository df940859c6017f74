"""DiffLlama: the difference of two attentions over paired heads. Source: https://arxiv.org/abs/2410.05258."""

import math
from typing import Any

import mlx.core as mx

from .. import kernels
from ..kernels import KVView, QuantizedTensor
from ..nn import Attention
from .parts import BiasArgs, DenseModel


class ModelArgs(BiasArgs):
    multiples = {"num_key_value_heads": 2}
    rms_norm_eps: float = 1e-5


class DifferentialAttention(Attention):
    """The first half of the heads minus lambda times the second half, over values of both halves."""

    def add(self, args: Any, index: int) -> None:
        self._start, self._eps = 0.8 - 0.6 * math.exp(-0.3 * index), args.rms_norm_eps
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
            self[name] = mx.zeros((args.heads[2],))

    def _attend(self, queries: mx.array, views: tuple[KVView, ...], position: int | mx.array) -> mx.array:
        halves = []
        for i in range(2):
            chosen = tuple(KVView(v.keys, _twice(v.values, i), v.window, v.keep) for v in views)
            halves.append(kernels.attention(queries, chosen, scale=self.scale))
        first, second = mx.split(mx.concatenate(halves, axis=-1), 2, axis=1)  # (B, H/2, L, 2D)
        pairs = (self.lambda_q1, self.lambda_k1), (self.lambda_q2, self.lambda_k2)
        factors = [mx.exp((a * b).astype(mx.float32).sum()) for a, b in pairs]
        factor = (factors[0] - factors[1] + self._start).astype(first.dtype)
        out = (1 - self._start) * kernels.rms_norm(first - factor * second, None, self._eps)
        # Two heads of D, as the output projection reads them.
        return mx.unflatten(out, -1, (2, -1)).swapaxes(2, 3).flatten(1, 2)


def _twice(x: Any, half: int) -> Any:
    """One half of the heads of an array or a packed one (B, H, ...), two times."""
    if isinstance(x, mx.array):
        return mx.concatenate([mx.split(x, 2, axis=1)[half]] * 2, axis=1)
    packed, scales, biases = (_twice(a, half) for a in (x.packed, x.scales, x.biases))
    return QuantizedTensor(packed, scales, biases, x.group_size, x.bits)


class Model(DenseModel):
    attention_type = DifferentialAttention
