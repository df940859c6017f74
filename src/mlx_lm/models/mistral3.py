"""Mistral Small 3.1 and later, Ministral 3, Devstral: the text tower. https://huggingface.co/mistralai."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from . import ministral3, mistral
from .config import BaseModelArgs
from .multimodal import TextTower

__all__ = ["Model", "ModelArgs"]

_TEXT = {"mistral": mistral, "ministral3": ministral3}


@dataclass
class ModelArgs(BaseModelArgs):
    """Reads as the arguments of the text model that `text_config` names."""

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Any:
        nested = config.get("text_config")
        kind = (nested.get("model_type") if isinstance(nested, Mapping) else None) or "mistral"
        if kind not in _TEXT:
            raise ConfigError(f"config.json: text_config.model_type {kind!r} is not one of {sorted(_TEXT)}.")
        return _TEXT[kind].ModelArgs.from_dict(config)


class Model(TextTower):
    def __init__(self, args: Any):
        self.text_model = next(  # type: ignore[misc]
            m.Model for m in _TEXT.values() if isinstance(args, m.ModelArgs)
        )
        super().__init__(args)
