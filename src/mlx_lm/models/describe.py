"""What a model is made of, from its config and headers: layers, parameters, bits, states and their bytes."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import UnsupportedError
from ..hub import ModelFiles
from ..nn.parameters import flat_parameters, leaf_modules
from ..state import PLAIN_KV, KVOptions, StateSpec, dtype_name
from .base import state_dtype
from .load import load_model_files

__all__ = ["LayerGroup", "ModelDescription", "dense_parameters", "describe_files", "describe_model"]


@dataclass(frozen=True)
class LayerGroup:
    """Consecutive layers of one make: the first and last index, their blocks by name, and what they keep."""

    first: int
    last: int
    blocks: tuple[str, ...]
    state: str
    bytes_per_token: float
    bytes_fixed: int


@dataclass(frozen=True)
class ModelDescription:
    """`parameters` counts the dense model's; bytes are of the stored weights; states are for one sequence."""

    model_type: str
    context_length: int | None
    vocab_size: int | None
    hidden_size: int | None
    parameters: int
    weight_bytes: int
    bits_per_weight: float
    dtype: str
    layers: tuple[LayerGroup, ...]
    kv_bytes_per_token: dict[str, float]
    state_bytes_fixed: int
    state_bytes_at_context: dict[str, int]


def describe_files(files: ModelFiles, **model_config: Any) -> ModelDescription:
    """As `describe_model`, for a model's files; no weight is read, only headers."""
    model, _ = load_model_files(files, lazy=True, keep_dtypes=True, model_config=model_config)
    return describe_model(model)


def describe_model(model: nn.Module) -> ModelDescription:
    """What `model` is made of."""
    specs: list[StateSpec] = model.state_specs()
    dtype = state_dtype(model)
    weights = [p for _, p in flat_parameters(model)]
    stored = sum(p.nbytes for p in weights)
    parameters = dense_parameters(model)
    context = getattr(model, "context_length", None)
    choices = {"plain": PLAIN_KV, "8 bit": KVOptions(bits=8), "4 bit": KVOptions(bits=4)}
    per_token = {name: _per_token(specs, dtype, options) for name, options in choices.items()}
    at_context = {name: _at(specs, dtype, options, context) for name, options in choices.items() if context}
    args = getattr(model, "args", None)
    return ModelDescription(
        model_type=str(getattr(model, "model_type", "?")),
        context_length=context,
        vocab_size=getattr(args, "vocab_size", None),
        hidden_size=getattr(args, "hidden_size", None),
        parameters=parameters,
        weight_bytes=stored,
        bits_per_weight=stored * 8 / max(parameters, 1),
        dtype=dtype_name(dtype),
        layers=tuple(_groups(model, specs, dtype)),
        kv_bytes_per_token={k: v for k, v in per_token.items() if v is not None},
        state_bytes_fixed=sum(spec.bytes_fixed(dtype) for spec in specs),
        state_bytes_at_context={k: v for k, v in at_context.items() if v is not None},
    )


def dense_parameters(model: nn.Module) -> int:
    """Parameters of the dense model that a (possibly quantized) model stands for."""
    total = 0
    for _, module in leaf_modules(model):
        bits = getattr(module, "bits", None)
        for name, value in module.parameters().items():
            if not isinstance(value, mx.array) or (bits is not None and name in ("scales", "biases")):
                continue
            total += value.size * 32 // bits if bits is not None and name == "weight" else value.size
    return total


def _groups(model: nn.Module, specs: list[StateSpec], dtype: mx.Dtype) -> list[LayerGroup]:
    rows = []
    for layer, spec in zip(model.layers, specs, strict=True):  # type: ignore[arg-type]
        blocks = tuple(f"{name}: {type(child).__name__}" for name, child in layer.children().items() if child)
        rows.append((blocks, spec.kind, spec.bytes_per_token(dtype), spec.bytes_fixed(dtype)))
    groups, index = [], 0
    for (blocks, kind, per_token, fixed), members in groupby(rows):
        count = len(list(members))
        groups.append(LayerGroup(index, index + count - 1, blocks, kind, per_token, fixed))
        index += count
    return groups


def _per_token(specs: list[StateSpec], dtype: mx.Dtype, options: KVOptions) -> float | None:
    try:
        return sum(spec.bytes_per_token(dtype, options) for spec in specs)
    except UnsupportedError:  # a head size that cannot be packed
        return None


def _at(specs: list[StateSpec], dtype: mx.Dtype, options: KVOptions, tokens: int) -> int | None:
    try:
        return sum(spec.bytes(tokens, dtype, options) for spec in specs)
    except UnsupportedError:
        return None
