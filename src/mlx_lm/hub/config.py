"""Read a model's config.json as untrusted input. Knows nothing of what its keys mean."""

import json
from pathlib import Path
from typing import Any

from mlx_lm.errors import ConfigError

__all__ = ["read_config"]

MAX_CONFIG_BYTES = 64 << 20


def read_config(path: Path) -> dict[str, Any]:
    """A config.json as a dict. Raises ConfigError when it is too large or no JSON object."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES:,} bytes.")
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: must hold a JSON object.")
    return config
