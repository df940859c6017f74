"""Linear, embedding and expert layers whose products go through `kernels`.

They subclass MLX's own layers, so that `isinstance` checks, `mlx.nn.quantize` and saved names keep their meaning.
"""

import math
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from .interleaved import Interleaved, interleaved

__all__ = ["Embedding", "Linear", "QuantizedEmbedding", "QuantizedLinear", "QuantizedSwitchLinear", "SwitchLinear"]


def _no_activation_quantization(quantize_input: bool) -> None:
    if quantize_input:
        raise ValueError("Quantized activations are not supported by this layer.")


def _cast(x: mx.array, dtype: str | None) -> mx.array:
    # A name, because MLX's dtypes cannot be pickled or deep-copied and models must.
    return x if dtype is None else x.astype(getattr(mx, dtype))


class Linear(nn.Linear):
    """`x @ weight.T + bias`: weight (output_dims, input_dims), x (..., input_dims)."""

    interleaved: Interleaved | None = None

    def __call__(self, x: mx.array) -> mx.array:
        if self.interleaved is not None and (regrouped := interleaved(self)) is not None:
            y = regrouped.product(x)
            return y + self["bias"] if "bias" in self else y
        return kernels.matmul(x, self["weight"], self.get("bias"))

    def to_quantized(
        self, group_size: int | None = None, bits: int | None = None, mode: str = "affine", quantize_input: bool = False
    ) -> "QuantizedLinear":
        """The layer with packed weights."""
        _no_activation_quantization(quantize_input)
        packed = QuantizedLinear.from_linear(self, group_size, bits, mode)  # type: ignore[arg-type]
        return cast(QuantizedLinear, packed)


class QuantizedLinear(nn.QuantizedLinear):
    """`Linear` with weights packed by `mx.quantize`."""

    interleaved: Interleaved | None = None

    def __call__(self, x: mx.array) -> mx.array:
        if self.interleaved is not None and (regrouped := interleaved(self)) is not None:
            y = regrouped.product(x)
            return y + self["bias"] if "bias" in self else y
        y = kernels.quantized_matmul(
            x,
            self["weight"],
            self["scales"],
            self.get("biases"),
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
        )
        return y + self["bias"] if "bias" in self else y


class Embedding(nn.Embedding):
    """Rows of weight (num_embeddings, dims) by token id; `as_linear` is the tied output head.

    `output_dtype`, where it is set, is the dtype that a model computes in whatever its weights are stored as.
    """

    output_dtype: str | None = None
    interleaved: Interleaved | None = None

    def __call__(self, x: mx.array) -> mx.array:
        regrouped = interleaved(self)
        return _cast(super().__call__(x) if regrouped is None else regrouped.rows(x), self.output_dtype)

    def as_linear(self, x: mx.array) -> mx.array:
        if (regrouped := interleaved(self)) is not None:
            return regrouped.product(x)
        return kernels.matmul(x, self["weight"])

    def to_quantized(
        self, group_size: int | None = None, bits: int | None = None, mode: str = "affine", quantize_input: bool = False
    ) -> "QuantizedEmbedding":
        """The layer with packed weights."""
        _no_activation_quantization(quantize_input)
        packed = QuantizedEmbedding.from_embedding(self, group_size, bits, mode)  # type: ignore[arg-type]
        return cast(QuantizedEmbedding, packed)


class QuantizedEmbedding(nn.QuantizedEmbedding):
    """`Embedding` with weights packed by `mx.quantize`."""

    output_dtype: str | None = None
    interleaved: Interleaved | None = None

    def __call__(self, x: mx.array) -> mx.array:
        regrouped = interleaved(self)
        return _cast(super().__call__(x) if regrouped is None else regrouped.rows(x), self.output_dtype)

    def as_linear(self, x: mx.array) -> mx.array:
        if (regrouped := interleaved(self)) is not None:
            return regrouped.product(x)
        return kernels.quantized_matmul(
            x,
            self["weight"],
            self["scales"],
            self.get("biases"),
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
        )


class SwitchLinear(nn.Module):
    """One linear layer per expert: weight (num_experts, output_dims, input_dims), bias (num_experts, output_dims)."""

    interleaved: Interleaved | None = None

    def __init__(self, input_dims: int, output_dims: int, num_experts: int, bias: bool = True):
        super().__init__()
        scale = math.sqrt(1 / input_dims)
        self.weight = mx.random.uniform(low=-scale, high=scale, shape=(num_experts, output_dims, input_dims))
        if bias:
            self.bias = mx.zeros((num_experts, output_dims))

    @property
    def input_dims(self) -> int:
        return self.weight.shape[2]

    @property
    def output_dims(self) -> int:
        return self.weight.shape[1]

    @property
    def num_experts(self) -> int:
        return self.weight.shape[0]

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """x (..., M, K), indices (...) -> (..., M, N)."""
        if self.interleaved is not None and (regrouped := interleaved(self)) is not None:
            y = regrouped.gathered(x, indices)
        else:
            y = kernels.gather_matmul(x, self["weight"], indices, sorted_indices=sorted_indices)
        return y + mx.expand_dims(self["bias"][indices], -2) if "bias" in self else y

    def to_quantized(
        self, group_size: int | None = None, bits: int | None = None, mode: str = "affine", quantize_input: bool = False
    ) -> nn.Module:
        """The layer with packed weights."""
        _no_activation_quantization(quantize_input)
        return QuantizedSwitchLinear.from_switch(self, group_size, bits, mode)


class QuantizedSwitchLinear(nn.Module):
    """`SwitchLinear` with weights packed by `mx.quantize`."""

    interleaved: Interleaved | None = None

    def __init__(
        self,
        input_dims: int,
        output_dims: int,
        num_experts: int,
        bias: bool = True,
        group_size: int | None = None,
        bits: int | None = None,
        mode: str = "affine",
    ):
        super().__init__()
        defaults = {"affine": (64, 4), "mxfp4": (32, 4), "nvfp4": (16, 4), "mxfp8": (32, 8)}[mode]
        self.group_size, self.bits, self.mode = group_size or defaults[0], bits or defaults[1], mode
        weight = mx.zeros((num_experts, output_dims, input_dims))
        self._pack(weight)
        if bias:
            self.bias = mx.zeros((num_experts, output_dims))
        self.freeze()

    @classmethod
    def from_switch(
        cls, layer: SwitchLinear, group_size: int | None = None, bits: int | None = None, mode: str = "affine"
    ) -> "QuantizedSwitchLinear":
        """Packs the weights of `layer`."""
        new = cls(layer.input_dims, layer.output_dims, layer.num_experts, "bias" in layer, group_size, bits, mode)
        new._pack(layer.weight)
        if "bias" in layer:
            new.bias = layer.bias
        return new

    @property
    def input_dims(self) -> int:
        return self.scales.shape[2] * self.group_size

    @property
    def output_dims(self) -> int:
        return self.weight.shape[1]

    @property
    def num_experts(self) -> int:
        return self.weight.shape[0]

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """x (..., M, K), indices (...) -> (..., M, N)."""
        if self.interleaved is not None and (regrouped := interleaved(self)) is not None:
            y = regrouped.gathered(x, indices)
        else:
            y = kernels.gather_quantized_matmul(
                x,
                self["weight"],
                self["scales"],
                self.get("biases"),
                indices,
                group_size=self.group_size,
                bits=self.bits,
                mode=self.mode,
                sorted_indices=sorted_indices,
            )
        return y + mx.expand_dims(self["bias"][indices], -2) if "bias" in self else y

    def _pack(self, weight: mx.array) -> None:
        self.weight, self.scales, *biases = mx.quantize(
            weight, group_size=self.group_size, bits=self.bits, mode=self.mode
        )
        if biases:
            self.biases = biases[0]
