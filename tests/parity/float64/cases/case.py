"""What a case is, and the small configs that most cases change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..maths import Array, Draw

__all__ = ["Case", "named", "tiny"]


@dataclass(frozen=True)
class Case:
    """A config in the published spelling, and the function that computes logits (L, V) from it."""

    config: dict[str, Any]
    reference: Callable[[dict[str, Any], Draw, Any], Array]
    length: int = 24

    @property
    def ids(self) -> Any:
        return np.random.default_rng(5).integers(1, self.config["vocab_size"], self.length)

    def run(self) -> tuple[Array, dict[str, Any]]:
        """Logits, and the checkpoint's tensors."""
        draw = Draw()
        return self.reference(self.config, draw, self.ids), draw.tensors


_TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def named(model_type: str, **fields: Any) -> dict[str, Any]:
    """The config of a family with names of its own: 32 words, and the fields as they are given."""
    return {"model_type": model_type, "vocab_size": 32, **fields}


def tiny(model_type: str, **changes: Any) -> dict[str, Any]:
    """The config of a family with Llama's names: two small layers, and what is given changed or added."""
    return named(model_type, **{**_TINY, **changes})
