"""Kimi K2.5: the text tower, which is Kimi K2. Source: https://huggingface.co/moonshotai/Kimi-K2.5."""

from collections.abc import Mapping
from typing import Any

from . import kimi_k2
from .parts import Rename, Rule, TextTower

__all__ = ["Model", "ModelArgs"]


class ModelArgs(kimi_k2.ModelArgs):
    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Any:
        nested = config.get("text_config")
        if config.get("tie_word_embeddings") is True and isinstance(nested, Mapping):
            # Whether the head is tied is the whole model's matter, whatever the text tower says of itself.
            config = {**config, "text_config": {**nested, "tie_word_embeddings": True}}
        return super().from_dict(config)


class Model(TextTower):
    text_model = kimi_k2.Model

    def weight_rules(self) -> tuple[Rule, ...]:
        # Some writers name the text tower's layers as the vision tower's.
        return (Rename(r"^((?:model\.)?language_model\.model\.)blocks\.", r"\1layers."), *super().weight_rules())
