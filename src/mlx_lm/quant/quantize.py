"""Quantizing and dequantizing the layers of a model, by one width or by a recipe per layer."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path, tree_unflatten

from ..errors import RequestError
from ..models.describe import dense_parameters
from ..nn import Embedding, HeadLinear, Linear, QuantizedHeadLinear, QuantizedSwitchLinear, SwitchLinear
from ..nn.parameters import flat_parameters

__all__ = [
    "MODES",
    "RECIPES",
    "Predicate",
    "bits_per_weight",
    "cast_model",
    "dequantize_model",
    "mixed_recipe",
    "quantize_model",
]

Predicate = Callable[..., "bool | dict[str, Any]"]

# Group size and bits of each mode when they are not given.
MODES: dict[str, tuple[int, int]] = {"affine": (64, 4), "mxfp4": (32, 4), "nvfp4": (16, 4), "mxfp8": (32, 8)}
RECIPES: dict[str, tuple[int, int]] = {
    "mixed_2_6": (2, 6),
    "mixed_3_4": (3, 4),
    "mixed_3_6": (3, 6),
    "mixed_4_6": (4, 6),
}


def mixed_recipe(name: str, model: nn.Module, group_size: int | None = None) -> Predicate:
    """A predicate that gives more bits where errors hurt: values and down projections of the first and last eighth
    of the layers and of every third between, and the output head.

    Raises:
        RequestError: the recipe is unknown, or the model has no down projections to tell apart.
    """
    if name not in RECIPES:
        raise RequestError(f"Unknown recipe {name!r}; known: {', '.join(RECIPES)}.")
    low, high = RECIPES[name]
    group = group_size or MODES["affine"][0]
    paths = [path for path, _ in model.named_modules()]
    if not any("down_proj" in path for path in paths):
        raise RequestError(f"Recipe {name!r} needs layers named down_proj, and this model has none.")
    layers = 1 + max((int(m[1]) for path in paths if (m := re.search(r"layers\.(\d+)", path))), default=0)

    def predicate(path: str, module: nn.Module, *_: Any) -> dict[str, Any]:
        match = re.search(r"layers\.(\d+)", path)
        index = int(match[1]) if match else 0
        first = layers // 8
        sharp = index < first or index >= 7 * layers // 8 or (index - first) % 3 == 2
        more = "lm_head" in path or (sharp and re.search(r"v_proj|v_a_proj|v_b_proj|down_proj", path) is not None)
        return {"group_size": group, "bits": high if more else low, "mode": "affine"}

    return predicate


def quantize_model(
    model: nn.Module,
    config: Mapping[str, Any],
    group_size: int | None = None,
    bits: int | None = None,
    mode: str = "affine",
    quant_predicate: Predicate | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Quantizes `model` in place and returns it with a config that says how, layer by layer.

    Layers whose width the group size does not divide stay as they are. `quant_predicate(path, module[, config])`
    returns whether, or with which group_size, bits and mode; the family's own choice for sharp layers (routers)
    holds unless it says otherwise.

    Raises:
        RequestError: the mode, bits or group size do not exist.
    """
    if mode not in MODES:
        raise RequestError(f"Unknown quantization mode {mode!r}; known: {', '.join(MODES)}.")
    group_size, bits = group_size or MODES[mode][0], bits or MODES[mode][1]
    _check(group_size, bits, mode)
    entry: dict[str, Any] = {"group_size": group_size, "bits": bits, "mode": mode}
    own = getattr(model, "quant_predicate", None)

    def decide(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized"):
            return False
        choice: bool | dict[str, Any] = own(path, module) if own is not None else True
        if quant_predicate is not None and choice is True:
            choice = _ask(quant_predicate, path, module, config)
        if choice is False:
            entry[path] = False
            return False
        wanted = {"group_size": group_size, "bits": bits, "mode": mode}
        if isinstance(choice, dict):
            wanted = {"group_size": group_size, "bits": bits, "mode": "affine"} | choice
            _check(wanted["group_size"], wanted["bits"], wanted["mode"])
        if module.weight.shape[-1] % wanted["group_size"]:  # type: ignore[union-attr]
            return False
        if wanted != {"group_size": group_size, "bits": bits, "mode": mode}:
            entry[path] = dict(wanted)
        return wanted

    nn.quantize(model, group_size, bits, mode=mode, class_predicate=decide)
    return model, {**config, "quantization": entry}


_PACKED = (nn.QuantizedLinear, nn.QuantizedEmbedding, QuantizedSwitchLinear, QuantizedHeadLinear)


def dequantize_model(model: nn.Module, dtype: mx.Dtype | None = None) -> nn.Module:
    """Replaces every quantized layer by a dense one of `dtype` (default: that of its scales)."""

    def dense(path: str, module: nn.Module) -> nn.Module:
        if not isinstance(module, _PACKED):
            return module
        weight = mx.dequantize(
            module.weight, module.scales, module.get("biases"), module.group_size, module.bits, module.mode
        )
        weight = weight if dtype is None else weight.astype(dtype)
        layer: nn.Module
        if isinstance(module, QuantizedSwitchLinear):
            layer = SwitchLinear(1, 1, 1, bias=False)
        elif isinstance(module, QuantizedHeadLinear):
            layer = HeadLinear(1, 1, 1)
        elif isinstance(module, nn.QuantizedEmbedding):
            layer = Embedding(1, 1)
        else:
            layer = Linear(1, 1, bias=False)
        layer.weight = weight
        if "bias" in module:
            layer["bias"] = module["bias"]
        return layer

    leaves = tree_map_with_path(dense, model.leaf_modules(), is_leaf=nn.Module.is_module)
    model.update_modules(leaves)
    return model


def bits_per_weight(model: nn.Module) -> float:
    """Stored bits for each parameter of the dense model."""
    stored = sum(p.nbytes for _, p in flat_parameters(model))
    return stored * 8 / dense_parameters(model)


def cast_model(model: nn.Module, dtype: mx.Dtype) -> nn.Module:
    """Casts floating parameters to `dtype`, but for those that the family keeps exact."""
    keep = getattr(model, "cast_predicate", None)
    flat = flat_parameters(model)
    cast = [
        (k, v.astype(dtype) if mx.issubdtype(v.dtype, mx.floating) and (keep is None or keep(k)) else v)
        for k, v in flat
    ]
    model.update(tree_unflatten(cast))
    return model


def _ask(predicate: Predicate, path: str, module: nn.Module, config: Mapping[str, Any]) -> bool | dict[str, Any]:
    """Calls a predicate of either form, (path, module) or (path, module, config)."""
    import inspect

    try:
        inspect.signature(predicate).bind(path, module)
    except TypeError:
        return predicate(path, module, config)
    return predicate(path, module)


def _check(group_size: int, bits: int, mode: str) -> None:
    if mode == "affine":
        if bits not in (2, 3, 4, 5, 6, 8) or group_size not in (32, 64, 128):
            raise RequestError(
                f"Affine quantization has 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128; got bits={bits}, "
                f"group_size={group_size}."
            )
    elif (group_size, bits) != MODES[mode]:
        raise RequestError(
            f"Mode {mode} has {MODES[mode][1]} bits in groups of {MODES[mode][0]}; got bits={bits}, "
            f"group_size={group_size}."
        )
