"""LoRA adapters in mlx-lm's layout: `adapters.safetensors` and `adapter_config.json` in one folder."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..errors import AdapterError
from ..hub.safetensors import load_safetensors
from ..nn.lora import lora_layer

__all__ = ["load_adapters"]


def load_adapters(model: nn.Module, adapter_path: str | Path) -> nn.Module:
    """Puts the adapter of a folder into `model` and returns it.

    Which layers get one is read from the adapter's own tensors.

    Raises:
        AdapterError: files are missing or malformed, or the adapter is of another model.
    """
    folder = Path(adapter_path)
    config = _config(folder)
    weights = load_safetensors(folder / "adapters.safetensors")
    kind = config.get("fine_tune_type", "lora")
    if kind == "full":
        _assign(model, weights, folder)
        return model
    if kind != "lora":
        raise AdapterError(f"{folder}: adapters of type {kind!r} are not supported; known: 'lora' and 'full'.")
    parameters = config.get("lora_parameters")
    scale = parameters.get("scale") if isinstance(parameters, dict) else None
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise AdapterError(f"{folder / 'adapter_config.json'}: lora_parameters.scale must be a number, not {scale!r}.")
    modules = dict(model.named_modules())
    layers = []
    for name, value in weights.items():
        if not name.endswith(".lora_a"):
            continue
        path = name.removesuffix(".lora_a")
        module = modules.get(path)
        rank = value.shape[1] if value.ndim in (2, 3) else 0
        layer = lora_layer(module, rank, 0.0, float(scale)) if module is not None and rank else None
        if layer is None:
            raise AdapterError(f"{folder}: the adapter has a part for {path!r}, which this model cannot take.")
        layers.append((path, layer))
    if not layers:
        raise AdapterError(f"{folder}: adapters.safetensors holds no lora_a tensors.")
    model.update_modules(tree_unflatten(layers))
    _assign(model, weights, folder)
    return model


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    for needed in (path, folder / "adapters.safetensors"):
        if not needed.is_file():
            raise AdapterError(f"{needed} does not exist; an adapter folder has it beside its weights.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        raise AdapterError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{path} must hold a JSON object.")
    return config


def _assign(model: nn.Module, weights: dict[str, mx.array], folder: Path) -> None:
    wanted = dict(tree_flatten(model.parameters()))
    for name, value in weights.items():
        if name not in wanted:
            raise AdapterError(f"{folder}: the model has no parameter {name!r}; is the adapter another model's?")
        if wanted[name].shape != value.shape:
            raise AdapterError(f"{folder}: {name} has shape {value.shape}; the model needs {wanted[name].shape}.")
    model.load_weights(list(weights.items()), strict=False)
