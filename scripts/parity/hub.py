"""Rewrites a config as transformers 5 saves it into the spelling that published checkpoints use.

It does not decide whether the result is right: `build` loads it with transformers again and compares logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

__all__ = ["hub_spelling"]

_LOCAL = ("sliding_attention", "chunked_attention")


def hub_spelling(
    config: Mapping[str, Any], changes: Mapping[str, Any], drop: object, *, flat_rope: bool = True
) -> dict[str, Any]:
    """Flat rope keys and `torch_dtype` (with `flat_rope`), then `changes` (`drop` removes a key)."""
    result = _flat(deepcopy(dict(config)), flat_rope)
    for key, part in result.items():
        if key.endswith("_config") and isinstance(part, Mapping):
            result[key] = _flat(dict(part), flat_rope)
    if "text_config" in result:
        _changed(result["text_config"], changes.get("text_config", {}), drop)
    return _changed(result, {k: v for k, v in changes.items() if k != "text_config"}, drop)


def _changed(config: dict[str, Any], changes: Mapping[str, Any], drop: object) -> dict[str, Any]:
    for key, value in changes.items():
        if value is drop:
            config.pop(key, None)
        else:
            config[key] = deepcopy(value)
    return config


def _flat(config: dict[str, Any], flat_rope: bool) -> dict[str, Any]:
    if not flat_rope:
        return config
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    if "transformers_version" in config:
        config["transformers_version"] = "4.51.0"
    rope = config.pop("rope_parameters", None)
    if not rope:
        return config
    if any(isinstance(value, Mapping) for value in rope.values()):
        local = next((dict(rope[kind]) for kind in _LOCAL if rope.get(kind)), None)
        rope = dict(rope.get("full_attention") or local or {})
        if local is not None:
            config["rope_local_base_freq"] = local["rope_theta"]
    config["rope_theta"] = rope.pop("rope_theta", None)
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    kind = rope.get("rope_type", "default")
    if kind == "longrope":
        original = rope.pop("original_max_position_embeddings", None)
        if original is not None:
            config["original_max_position_embeddings"] = original
        rope["type"] = rope.pop("rope_type")
        rope.pop("factor", None)
    config["rope_scaling"] = None if set(rope) <= {"rope_type"} and kind == "default" else rope
    return config
