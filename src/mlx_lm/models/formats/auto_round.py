"""Checkpoints of AutoRound, which writes the layouts of GPTQ and AWQ."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from ...errors import ConfigError
from . import awq, gptq
from .layout import Converted

__all__ = ["convert"]


def convert(weights: dict[str, mx.array], settings: Mapping[str, Any], dtype: mx.Dtype) -> Converted:
    """As `awq.convert` and `gptq.convert`, by the packing format that the settings name."""
    form = str(settings.get("packing_format") or settings.get("backend") or "")
    if "awq" in form:
        return awq.convert(weights, {**settings, "version": "gemm"}, dtype)
    if "gptq" in form:
        return gptq.convert(weights, {**settings, "checkpoint_format": "gptq"}, dtype)
    raise ConfigError(f"config.json: AutoRound's packing_format {form!r} is not supported, only its gptq and awq ones.")
