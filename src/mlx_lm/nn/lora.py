"""Low-rank adapters around linear, expert and embedding layers.

y = layer(x) + scale * (x a) b. Layouts and names are those of mlx-lm's adapter files. Source: LoRA,
https://arxiv.org/abs/2106.09685.
"""

import math
from typing import Any, Self

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from .latent import HeadLinear
from .linear import QuantizedSwitchLinear, SwitchLinear

__all__ = ["LoRAEmbedding", "LoRALinear", "LoRASwitchLinear", "lora_layer"]


class _Adapter(nn.Module):
    """A layer under `layer_name`, and beside it a random `lora_a` and a `lora_b` of zeros."""

    layer_name = "linear"

    def __init__(self, layer: Any, r: int, dropout: float, scale: float):
        super().__init__()
        self[self.layer_name] = layer
        self.dropout = nn.Dropout(p=dropout)
        self.scale = scale
        first, second, inputs = self._shapes(layer, r)
        bound = 1 / math.sqrt(inputs)
        self.lora_a = mx.random.uniform(low=-bound, high=bound, shape=first)
        self.lora_b = mx.zeros(second)

    @classmethod
    def from_base(cls, layer: nn.Module, r: int = 8, dropout: float = 0.0, scale: float = 20.0) -> Self:
        """An adapter of rank `r` around `layer` that changes nothing yet."""
        return cls(layer, r, dropout, scale)

    @staticmethod
    def _shapes(layer: Any, r: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """Those of lora_a and lora_b, and the number of features that enter; the layer's weight may be packed."""
        rows, columns = layer.weight.shape
        columns = columns if getattr(layer, "bits", None) is None else columns * 32 // layer.bits
        return (columns, r), (r, rows), columns

    def _adapted(self, y: mx.array, z: mx.array) -> mx.array:
        return y + (self.scale * z).astype(y.dtype)


class LoRALinear(_Adapter):
    """A linear layer (dense or quantized) with lora_a (input_dims, r) and lora_b (r, output_dims)."""

    def __call__(self, x: mx.array) -> mx.array:
        y = self.linear(x)
        return self._adapted(y, kernels.matmul(kernels.matmul(self.dropout(x), self.lora_a.T), self.lora_b.T))


class LoRASwitchLinear(_Adapter):
    """Stacked experts with lora_a (E, r, input_dims) and lora_b (E, output_dims, r)."""

    @staticmethod
    def _shapes(layer: Any, r: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        count = layer.num_experts
        return (count, r, layer.input_dims), (count, layer.output_dims, r), layer.input_dims

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        y = self.linear(x, indices, sorted_indices)
        z = self.dropout(x)
        for weights in (self.lora_a, self.lora_b):
            z = kernels.gather_matmul(z, weights, indices, sorted_indices=sorted_indices)
        return self._adapted(y, z)


class LoRAEmbedding(_Adapter):
    """An embedding with lora_a (num_embeddings, r) and lora_b (r, dims)."""

    layer_name = "embedding"

    @staticmethod
    def _shapes(layer: Any, r: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        (dims, _), (_, count), _ = _Adapter._shapes(layer, r)
        return (count, r), (r, dims), count

    def __call__(self, x: mx.array) -> mx.array:
        return self._adapted(self.embedding(x), self.dropout(self.lora_a[x] @ self.lora_b))

    def as_linear(self, x: mx.array) -> mx.array:
        return self._adapted(self.embedding.as_linear(x), (self.dropout(x) @ self.lora_b.T) @ self.lora_a.T)


def lora_layer(module: nn.Module, r: int, dropout: float, scale: float) -> nn.Module | None:
    """The adapter for a layer, or None for a kind of layer that takes none."""
    if isinstance(module, SwitchLinear | QuantizedSwitchLinear) and not isinstance(module, HeadLinear):
        return LoRASwitchLinear.from_base(module, r, dropout, scale)
    if isinstance(module, nn.Linear | nn.QuantizedLinear):
        return LoRALinear.from_base(module, r, dropout, scale)
    if isinstance(module, nn.Embedding | nn.QuantizedEmbedding):
        return LoRAEmbedding.from_base(module, r, dropout, scale)
    return None
