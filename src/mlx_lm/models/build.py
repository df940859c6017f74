"""A model from a config and a checkpoint's tensors: family, rules, quantized layers, checked assignment.

This module reads no files.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from ..errors import ConfigError, WeightsError
from .base import CausalLM
from .registry import get_classes
from .weights import rename_path

__all__ = ["assign_weights", "build_model", "infer_quantization", "quantization_of", "quantize_layers"]

_MODES = {"affine": (64, 4), "mxfp4": (32, 4), "nvfp4": (16, 4), "mxfp8": (32, 8)}
_BITS = (2, 3, 4, 5, 6, 8)


def build_model(
    config: Mapping[str, Any],
    weights: Mapping[str, mx.array] | None = None,
    *,
    get_model_classes: Callable[[Mapping[str, Any]], tuple[Any, Any]] = get_classes,
) -> CausalLM:
    """The model of a `config.json`, with random weights or with a checkpoint's.

    Raises:
        ConfigError: the config is not supported, or contradicts itself.
        WeightsError: tensors are missing, unexpected or of the wrong shape.
    """
    model_class, args_class = get_model_classes(config)
    model = model_class(args_class.from_dict(config))
    if weights is not None:
        renamed = model.sanitize(dict(weights))
        quantization = quantization_of(config)
        if quantization is not None:
            quantize_layers(model, quantization, renamed)
        _drop_zero_biases(model, renamed)
        assign_weights(model, renamed)
    model.eval()
    return model


def quantization_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """MLX's `quantization` entry of a config, wherever it stands, or what another name stands for; None if dense."""
    for place in (config, config.get("text_config") or {}):
        for key in ("quantization", "quantization_config"):
            entry = place.get(key)
            if isinstance(entry, dict) and "group_size" in entry and "bits" in entry:
                return entry
            if isinstance(entry, dict) and entry.get("quant_method") == "mxfp4":
                return {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    return None


def quantize_layers(model: nn.Module, quantization: Mapping[str, Any], weights: Mapping[str, mx.array]) -> None:
    """Makes quantized layers of those for which `weights` has scales; entries by path override the defaults."""
    default = _entry("quantization", quantization)
    rules = model.weight_rules() if isinstance(model, CausalLM) else ()
    own: dict[str, dict[str, Any]] = {}
    for path, entry in quantization.items():
        if isinstance(entry, dict):
            own[rename_path(rules, path)] = _entry(path, {"mode": default["mode"], **entry})

    def predicate(path: str, module: nn.Module) -> bool | dict[str, Any]:
        scales = weights.get(f"{path}.scales")
        packed = weights.get(f"{path}.weight")
        if scales is None or packed is None or not hasattr(module, "to_quantized"):
            return False
        entry = own.get(path, default)
        width = _width(module)
        fits = (packed.shape[-1] * 32, scales.shape[-1] * entry["group_size"]) == (width * entry["bits"], width)
        if not fits or (scales.dtype == mx.uint8) != (entry["mode"] != "affine"):
            entry = infer_quantization(path, width, packed, scales)
        return entry

    nn.quantize(model, class_predicate=predicate)


def assign_weights(model: nn.Module, weights: Mapping[str, mx.array]) -> None:
    """Puts tensors into the model; every parameter gets exactly one, of its shape.

    Raises:
        WeightsError: lists what is missing, unexpected or misshapen.
    """
    wanted = dict(tree_flatten(model.parameters()))
    missing = sorted(wanted.keys() - weights.keys())
    unexpected = sorted(weights.keys() - wanted.keys())
    if missing or unexpected:
        parts = [f"{len(n)} {what}: {_some(n)}" for n, what in ((missing, "missing"), (unexpected, "unexpected")) if n]
        raise WeightsError(f"The checkpoint does not fit {_name(model)}; " + "; ".join(parts) + ".")
    wrong = [f"{k} has {weights[k].shape}, not {v.shape}" for k, v in wanted.items() if weights[k].shape != v.shape]
    if wrong:
        raise WeightsError(f"The checkpoint does not fit {_name(model)}; wrong shapes: {_some(wrong)}.")
    model.load_weights(list(weights.items()), strict=False)


def _drop_zero_biases(model: nn.Module, weights: dict[str, mx.array]) -> None:
    """Forgets biases that are all zero and that the model lacks: some quantizers write one for every layer."""
    wanted = {name for name, _ in tree_flatten(model.parameters())}
    for name in [k for k in weights if k.endswith(".bias") and k not in wanted]:
        if name.removesuffix("bias") + "weight" in wanted and not mx.any(weights[name]).item():
            del weights[name]


def _name(model: nn.Module) -> str:
    return f"model type {getattr(model, 'model_type', '?')!r}"


def _some(names: list[str], limit: int = 12) -> str:
    # One line for all layers of a kind reads better than thirty.
    kinds = list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", n) for n in names))
    return ", ".join(kinds[:limit]) + (f" and {len(kinds) - limit} more kinds" if len(kinds) > limit else "")


def _entry(path: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    mode = entry.get("mode") or "affine"
    if mode not in _MODES:
        raise ConfigError(f"config.json: quantization mode {mode!r} of {path} is not known; known: {sorted(_MODES)}.")
    group_size, bits = (entry.get("group_size") or _MODES[mode][0], entry.get("bits") or _MODES[mode][1])
    known = bits in _BITS and group_size in (32, 64, 128) if mode == "affine" else (group_size, bits) == _MODES[mode]
    if not known:
        raise ConfigError(
            f"config.json: quantization of {path} with bits={bits!r} and group_size={group_size!r} "
            f"is not supported in mode {mode!r}."
        )
    return {"group_size": group_size, "bits": bits, "mode": mode}


def _width(module: nn.Module) -> int:
    return int(module.weight.shape[-1])


def infer_quantization(path: str, width: int, packed: mx.array, scales: mx.array) -> dict[str, Any]:
    """Bits and group size of a layer from its shapes, for configs that do not list it."""
    bits, rest = divmod(packed.shape[-1] * 32, width)
    group_size, uneven = divmod(width, scales.shape[-1])
    if rest or uneven:
        raise WeightsError(
            f"{path}: packed shape {packed.shape} and scales {scales.shape} fit no quantization of {width} columns."
        )
    if scales.dtype == mx.uint8:
        mode = {(32, 4): "mxfp4", (16, 4): "nvfp4", (32, 8): "mxfp8"}.get((group_size, bits), "affine")
    else:
        mode = "affine"
    return _entry(path, {"group_size": group_size, "bits": bits, "mode": mode})
