"""LLaVA: the text tower, a Llama, Mistral, Qwen 2 or Gemma. Source: https://arxiv.org/abs/2304.08485."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from . import gemma, llama, mistral, qwen2
from .config import BaseModelArgs
from .multimodal import TextTower

__all__ = ["Model", "ModelArgs"]

_TEXT = {"llama": llama, "mistral": mistral, "qwen2": qwen2, "gemma": gemma}


@dataclass
class ModelArgs(BaseModelArgs):
    """Reads as the arguments of the text model that `text_config` names."""

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Any:
        nested = config.get("text_config")
        kind = (nested.get("model_type") if isinstance(nested, Mapping) else None) or "llama"
        if kind not in _TEXT:
            raise ConfigError(f"config.json: text_config.model_type {kind!r} is not one of {sorted(_TEXT)}.")
        return _TEXT[kind].ModelArgs.from_dict(config)


class Model(TextTower):
    def __init__(self, args: Any):
        self.text_model = next(  # type: ignore[misc]
            m.Model for m in _TEXT.values() if type(args) is m.ModelArgs
        )
        super().__init__(args)
