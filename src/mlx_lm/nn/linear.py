"""Linear, embedding and expert layers whose products go through `kernels`.

They subclass MLX's own layers, so that `isinstance` checks, `mlx.nn.quantize` and saved names keep their meaning.
"""

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from .interleaved import Interleaved, interleaved, packing

__all__ = ["Embedding", "Linear", "QuantizedEmbedding", "QuantizedLinear", "QuantizedSwitchLinear", "SwitchLinear"]


class _Packable(nn.Module):
    """What `mlx.nn.quantize` asks of a layer."""

    make_packed: Callable[..., Any]

    def to_quantized(
        self, group_size: int | None = None, bits: int | None = None, mode: str = "affine", quantize_input: bool = False
    ) -> Any:
        """The layer with packed weights."""
        if quantize_input:
            raise ValueError("Quantized activations are not supported by this layer.")
        return self.make_packed(self, group_size, bits, mode)


class _Regrouped(nn.Module):
    """A layer whose regrouped weights are used where there are such, else its own, dense or packed."""

    interleaved: Interleaved | None = None

    def project(self, x: mx.array) -> mx.array:
        """x (..., K) -> (..., N)."""
        if self.interleaved is not None and (regrouped := interleaved(self)) is not None:
            y = regrouped.product(x)
        elif "scales" in self:
            y = kernels.quantized_matmul(x, self["weight"], self["scales"], self.get("biases"), **packing(self))
        else:
            return kernels.matmul(x, self["weight"], self.get("bias"))
        return y + self["bias"] if "bias" in self else y


class _Projection(_Regrouped):
    def __call__(self, x: mx.array) -> mx.array:
        return self.project(x)


class QuantizedLinear(_Projection, nn.QuantizedLinear):
    """`Linear` with weights packed by `mx.quantize`."""


class Linear(_Projection, _Packable, nn.Linear):
    """`x @ weight.T + bias`: weight (output_dims, input_dims), x (..., input_dims)."""

    make_packed = QuantizedLinear.from_linear


class _Rows(_Regrouped):
    """Rows by token id of regrouped weights or of plain ones, and the product with all of them.

    `output_dtype`, where it is set, is the dtype that a model computes in whatever its weights are stored as.
    """

    output_dtype: str | None = None

    def __call__(self, x: mx.array) -> mx.array:
        # A name, because MLX's dtypes cannot be pickled or deep-copied and models must.
        dtype = None if self.output_dtype is None else getattr(mx, self.output_dtype)
        if (regrouped := interleaved(self)) is not None:
            return regrouped.rows(x, dtype)
        if "scales" not in self:
            return kernels.embedding_rows(x, self["weight"], dtype=dtype)
        arrays = self["weight"], self["scales"], self.get("biases")
        return kernels.embedding_rows(x, *arrays, **packing(self), dtype=dtype)

    def as_linear(self, x: mx.array) -> mx.array:
        return self.project(x)


class QuantizedEmbedding(_Rows, nn.QuantizedEmbedding):
    """`Embedding` with weights packed by `mx.quantize`."""


class Embedding(_Rows, _Packable, nn.Embedding):
    """Rows of weight (num_embeddings, dims) by token id; `as_linear` is the tied output head."""

    make_packed = QuantizedEmbedding.from_embedding


class _Switch(nn.Module):
    """One linear layer per expert."""

    interleaved: Interleaved | None = None

    @property
    def input_dims(self) -> int:
        return self.scales.shape[2] * self.group_size if "scales" in self else self.weight.shape[2]

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
        elif "scales" in self:
            w, scales, biases = self["weight"], self["scales"], self.get("biases")
            order = {"sorted_indices": sorted_indices, **packing(self)}
            y = kernels.gather_quantized_matmul(x, w, scales, biases, indices, **order)
        else:
            y = kernels.gather_matmul(x, self["weight"], indices, sorted_indices=sorted_indices)
        return y + mx.expand_dims(self["bias"][indices], -2) if "bias" in self else y


class Packed(nn.Module):
    """Weights (E, N, K) packed by `mx.quantize`."""

    def pack(self, weight: mx.array, group_size: int | None, bits: int | None, mode: str) -> None:
        """Takes over `weight`; without a size or bits, as MLX has them for the mode."""
        defaults = {"affine": (64, 4), "mxfp4": (32, 4), "nvfp4": (16, 4), "mxfp8": (32, 8)}[mode]
        self.group_size, self.bits, self.mode = group_size or defaults[0], bits or defaults[1], mode
        self.weight, self.scales, *biases = mx.quantize(weight, **packing(self))
        if biases:
            self.biases = biases[0]
        self.freeze()


class QuantizedSwitchLinear(_Switch, Packed):
    """`SwitchLinear` with weights packed by `mx.quantize`."""

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
        if bias:
            self.bias = mx.zeros((num_experts, output_dims))
        self.pack(mx.zeros((num_experts, output_dims, input_dims)), group_size, bits, mode)

    @classmethod
    def from_switch(
        cls, layer: "SwitchLinear", group_size: int | None = None, bits: int | None = None, mode: str = "affine"
    ) -> "QuantizedSwitchLinear":
        """Packs the weights of `layer`."""
        new = cls(layer.input_dims, layer.output_dims, layer.num_experts, "bias" in layer, group_size, bits, mode)
        new.pack(layer.weight, group_size, bits, mode)
        if "bias" in layer:
            new.bias = layer.bias
        return new


class SwitchLinear(_Switch, _Packable):
    """One linear layer per expert: weight (num_experts, output_dims, input_dims), bias (num_experts, output_dims)."""

    make_packed = QuantizedSwitchLinear.from_switch

    def __init__(self, input_dims: int, output_dims: int, num_experts: int, bias: bool = True):
        super().__init__()
        scale = math.sqrt(1 / input_dims)
        self.weight = mx.random.uniform(low=-scale, high=scale, shape=(num_experts, output_dims, input_dims))
        if bias:
            self.bias = mx.zeros((num_experts, output_dims))
