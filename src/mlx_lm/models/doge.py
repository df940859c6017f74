"""Doge: scores grow by what a key's value says, residuals have weights. Source: https://arxiv.org/abs/2412.11834."""

from typing import Any

import mlx.core as mx

from ..kernels import KVView
from ..nn import BiasedAttention, DecoderLayer, Linear
from ..state import LayerState
from .config import LlamaArgs
from .dense import DenseModel, SlidingArgs


class ModelArgs(SlidingArgs, LlamaArgs):
    # The experts' router mixes the tokens of a batch, so that an answer would depend on how a prompt is cut.
    fixed = {"is_moe": (False,)}
    keep_window_size: int = 2048
    num_experts: int = 16384  # of the kind that is refused

    def has_experts(self, index: int) -> bool:
        return False


class DynamicMask(BiasedAttention):
    """Adds exp(A * softplus(dt(value))) to a key's scores, of which only the largest `kept` count."""

    def add(self, args: Any, index: int) -> None:
        _, heads, size = args.heads
        self.kept, self.A = args.keep_window_size, mx.zeros((heads,))
        self.dt_proj = Linear(heads * size, heads, bias=args.attention_bias)

    def rule(self, query: mx.array, key: mx.array, seen: mx.array | None, view: KVView) -> mx.array | None:
        values = view.values if isinstance(view.values, mx.array) else view.values.dequantize()
        step = self.dt_proj(values.transpose(0, 2, 1, 3).flatten(2).astype(self.dt_proj.weight.dtype))
        added = mx.exp(self.A * mx.logaddexp(step, 0)).swapaxes(1, 2)[:, :, None]  # (B, Hkv, 1, T)
        bias = added if seen is None else mx.where(seen, added, -mx.inf)
        if bias.shape[-1] > self.kept:
            least = mx.sort(bias, axis=-1)[..., -self.kept :][..., :1]
            bias = mx.where(bias >= least, bias, -mx.inf)
        return mx.repeat(bias, self._options.num_heads // self._options.num_kv_heads, axis=1)


class WeightedResiduals(DecoderLayer):
    def add(self, args: Any, index: int) -> None:
        self.input_residual = mx.ones((args.hidden_size,))
        self.post_attention_residual = mx.ones((args.hidden_size,))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        x = self.input_residual * x + self._mix(self.input_layernorm(x), state)
        return self.post_attention_residual * x + self._feed(self.post_attention_layernorm(x))


class Model(DenseModel):
    layer_type = WeightedResiduals
    attention_type = DynamicMask
    qk_norm = True
