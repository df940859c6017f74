"""Low-rank adapters around linear, expert and embedding layers.

y = layer(x) + scale * (x a) b. Layouts and names are those of mlx-lm's adapter files. Source: LoRA,
https://arxiv.org/abs/2106.09685.
"""

import math

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from .linear import QuantizedSwitchLinear, SwitchLinear

__all__ = ["LoRAEmbedding", "LoRALinear", "LoRASwitchLinear", "lora_layer"]


class LoRALinear(nn.Module):
    """A linear layer (dense or quantized) with lora_a (input_dims, r) and lora_b (r, output_dims)."""

    def __init__(self, linear: nn.Module, input_dims: int, output_dims: int, r: int, dropout: float, scale: float):
        super().__init__()
        self.linear = linear
        self.dropout = nn.Dropout(p=dropout)
        self.scale = scale
        bound = 1 / math.sqrt(input_dims)
        self.lora_a = mx.random.uniform(low=-bound, high=bound, shape=(input_dims, r))
        self.lora_b = mx.zeros((r, output_dims))

    @classmethod
    def from_base(cls, linear: nn.Module, r: int = 8, dropout: float = 0.0, scale: float = 20.0) -> "LoRALinear":
        """An adapter of rank `r` around `linear` that changes nothing yet."""
        output_dims, input_dims = _dims(linear)
        return cls(linear, input_dims, output_dims, r, dropout, scale)

    def __call__(self, x: mx.array) -> mx.array:
        y = self.linear(x)
        z = kernels.matmul(kernels.matmul(self.dropout(x), self.lora_a.T), self.lora_b.T)
        return y + (self.scale * z).astype(y.dtype)


class LoRASwitchLinear(nn.Module):
    """Stacked experts with lora_a (E, r, input_dims) and lora_b (E, output_dims, r)."""

    def __init__(self, linear: SwitchLinear | QuantizedSwitchLinear, r: int, dropout: float, scale: float):
        super().__init__()
        experts, output_dims, input_dims = linear.num_experts, linear.output_dims, linear.input_dims
        self.linear = linear
        self.dropout = nn.Dropout(p=dropout)
        self.scale = scale
        bound = 1 / math.sqrt(input_dims)
        self.lora_a = mx.random.uniform(low=-bound, high=bound, shape=(experts, r, input_dims))
        self.lora_b = mx.zeros((experts, output_dims, r))

    @classmethod
    def from_base(
        cls, linear: SwitchLinear | QuantizedSwitchLinear, r: int = 8, dropout: float = 0.0, scale: float = 20.0
    ) -> "LoRASwitchLinear":
        """An adapter of rank `r` for each expert that changes nothing yet."""
        return cls(linear, r, dropout, scale)

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        y = self.linear(x, indices, sorted_indices)
        z = self.dropout(x)
        for weights in (self.lora_a, self.lora_b):
            z = kernels.gather_matmul(z, weights, indices, sorted_indices=sorted_indices)
        return y + (self.scale * z).astype(y.dtype)


class LoRAEmbedding(nn.Module):
    """An embedding with lora_a (num_embeddings, r) and lora_b (r, dims)."""

    def __init__(self, embedding: nn.Module, num_embeddings: int, dims: int, r: int, dropout: float, scale: float):
        super().__init__()
        self.embedding = embedding
        self.dropout = nn.Dropout(p=dropout)
        self.scale = scale
        bound = 1 / math.sqrt(num_embeddings)
        self.lora_a = mx.random.uniform(low=-bound, high=bound, shape=(num_embeddings, r))
        self.lora_b = mx.zeros((r, dims))

    @classmethod
    def from_base(cls, embedding: nn.Module, r: int = 8, dropout: float = 0.0, scale: float = 20.0) -> "LoRAEmbedding":
        """An adapter of rank `r` around `embedding` that changes nothing yet."""
        num_embeddings, dims = _dims(embedding)
        return cls(embedding, num_embeddings, dims, r, dropout, scale)

    def __call__(self, x: mx.array) -> mx.array:
        y = self.embedding(x)
        z = self.dropout(self.lora_a[x] @ self.lora_b)
        return y + (self.scale * z).astype(y.dtype)

    def as_linear(self, x: mx.array) -> mx.array:
        y = self.embedding.as_linear(x)  # type: ignore[operator]
        z = (self.dropout(x) @ self.lora_b.T) @ self.lora_a.T
        return y + (self.scale * z).astype(y.dtype)


def lora_layer(module: nn.Module, r: int, dropout: float, scale: float) -> nn.Module | None:
    """The adapter for a layer, or None for a kind of layer that takes none."""
    if isinstance(module, SwitchLinear | QuantizedSwitchLinear):
        return LoRASwitchLinear.from_base(module, r, dropout, scale)
    if isinstance(module, nn.Linear | nn.QuantizedLinear):
        return LoRALinear.from_base(module, r, dropout, scale)
    if isinstance(module, nn.Embedding | nn.QuantizedEmbedding):
        return LoRAEmbedding.from_base(module, r, dropout, scale)
    return None


def _dims(layer: nn.Module) -> tuple[int, int]:
    """Rows and columns of a layer's weight, packed or not."""
    rows, columns = layer.weight.shape  # type: ignore[union-attr]
    bits = getattr(layer, "bits", None)
    return rows, columns if bits is None else columns * 32 // bits
