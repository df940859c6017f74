"""Checkpoints that other tools quantized, turned into MLX's layouts before a family's weight rules see them.

Contract: `convert_checkpoint(config, weights)` gives a config whose `quantization` entry is MLX's and tensors in MLX's
packed layouts, exactly equal to what the checkpoint means; where MLX has no such layout, dense weights in the
config's dtype, decoded in float32. Arrays stay lazy. Formats are registered by `quant_method`, one module each; a
method that is not known is refused by name, before any weight is read (`quantization_settings`).

Scales of activations and of the key-value cache are dropped: computation stays in float. No family is known here.
"""

import importlib
import logging
import re
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from ...errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from .layout import Converted

__all__ = ["convert_checkpoint", "quantization_settings"]

_log = logging.getLogger(__name__)

# quant_method -> the module that converts it, imported when a checkpoint needs it.
_FORMATS = MappingProxyType(
    {
        "auto-round": "auto_round",
        "awq": "awq",
        "bitnet": "bitnet",
        "bitsandbytes": "bitsandbytes",
        "compressed-tensors": "compressed",
        "fbgemm_fp8": "fp8",
        "fp8": "fp8",
        "gptq": "gptq",
        "modelopt": "modelopt",
        "modelopt_fp4": "modelopt",
        "mxfp8": "fp8",
    }
)
# Read by the family's own rules: blocks whose bytes are MLX's already.
_BY_RULES = ("mxfp4",)
_DTYPES = MappingProxyType({"float16": mx.float16, "bfloat16": mx.bfloat16, "float32": mx.float32})
_UNUSED = re.compile(
    r"\.(input_scale|input_zero_point|input_global_scale|output_scale|output_zero_point|activation_scale|act_scale"
    r"|activation_scale_ub|input_scale_ub|[qkv]_scale|[qkv]_zero_point|kv_scale"
    r"|[kv]_bmm_quantizer\._amax)$"
)


def quantization_settings(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """How another tool quantized this checkpoint, with its `quant_method`; None for float and for MLX's own layout.

    Raises:
        ConfigError: the method is not supported; names it and says what to do.
    """
    if isinstance(config.get("quantization"), dict):
        return None
    text = config.get("text_config")
    places = (config, text if isinstance(text, dict) else {})
    entry = next((p["quantization_config"] for p in places if p.get("quantization_config")), None)
    if entry is None:
        return None
    if not isinstance(entry, dict):
        raise ConfigError("config.json: quantization_config must be an object.")
    method = entry.get("quant_method")
    if method is None and "quant_algo" in entry:
        method = "modelopt"
    if method is None and "group_size" in entry and "bits" in entry:
        return None
    if method in _BY_RULES:
        return None
    if not isinstance(method, str) or method not in _FORMATS:
        raise ConfigError(
            f"config.json: weights quantized by quant_method {method!r} are not supported; known: "
            f"{', '.join(sorted([*_FORMATS, *_BY_RULES]))}. Use the model's float checkpoint and quantize it with "
            "mlx_lm.convert -q."
        )
    return {**entry, "quant_method": method}


def convert_checkpoint(
    config: Mapping[str, Any], weights: Mapping[str, mx.array]
) -> tuple[dict[str, Any], dict[str, mx.array]]:
    """A foreign quantized checkpoint as MLX would hold it; any other is returned as it is.

    Args:
        config: config.json. weights: the checkpoint's tensors under its own names.

    Returns:
        (config with MLX's `quantization` in place of `quantization_config`, tensors). There is no `quantization` when
        every weight became dense.

    Raises:
        ConfigError: the method, or one of its settings, is not supported.
        WeightsError: tensors are missing, or have shapes or types that the method does not.
    """
    settings = quantization_settings(config)
    if settings is None:
        return dict(config), dict(weights)
    from .layout import Packed  # and numpy

    method = settings["quant_method"]
    dropped = [k for k in weights if _UNUSED.search(k)]
    named = {k: v for k, v in weights.items() if not _UNUSED.search(k)}
    module = importlib.import_module(f"{__name__}.{_FORMATS[method]}")
    try:
        converted: Converted = module.convert(named, settings, _config_dtype(config))
    except (AttributeError, TypeError, KeyError, IndexError) as error:
        raise ConfigError(f"config.json: quantization_config of method {method!r} is malformed ({error!r}).") from error
    _say(method, settings, dropped, sum(isinstance(v, Packed) for v in converted.values()))
    result: dict[str, mx.array] = {}
    entries: dict[str, dict[str, Any]] = {}
    for name, value in converted.items():
        if isinstance(value, Packed):
            path = name.removesuffix(".weight")
            result |= value.tensors(path)
            entries[path] = value.entry()
        elif name.endswith(".weight") and value.ndim > 1 and not mx.issubdtype(value.dtype, mx.floating):
            raise WeightsError(f"{name}: is {value.dtype}, and no scale or state says what it means for {method!r}.")
        else:
            result[name] = value
    return _with_quantization(config, entries), result


def _with_quantization(config: Mapping[str, Any], entries: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The config with MLX's entry: the most common layout as default, the others by path."""
    new = {k: v for k, v in config.items() if k != "quantization_config"}
    if isinstance(new.get("text_config"), dict):
        new["text_config"] = {k: v for k, v in new["text_config"].items() if k != "quantization_config"}
    if entries:
        common = Counter(tuple(e.items()) for e in entries.values()).most_common(1)[0][0]
        default = dict(common)
        new["quantization"] = default | {path: e for path, e in entries.items() if e != default}
    return new


def _config_dtype(config: Mapping[str, Any]) -> mx.Dtype:
    text = config.get("text_config")
    places = (config, text if isinstance(text, dict) else {})
    names = [str(p.get(key)).removeprefix("torch.") for p in places for key in ("torch_dtype", "dtype")]
    return next((_DTYPES[n] for n in names if n in _DTYPES), mx.bfloat16)


def _say(method: str, settings: Mapping[str, Any], dropped: list[str], packed: int) -> None:
    _log.info("Weights quantized by %s: %d layers kept packed, the others made dense.", method, packed)
    if dropped:
        kinds = sorted({name.rsplit(".", 1)[-1] for name in dropped})
        _log.info("Not used: %s. Activations and the key-value cache stay in float.", ", ".join(kinds))
    elif method == "bitnet" or settings.get("activation_scheme") or "input_activations" in str(settings):
        _log.info("Activations stay in float; %s quantizes them.", method)
