"""Models by name, with the context that the settings give them."""

from __future__ import annotations

import logging
from typing import Any

from ..config.settings import MLXSettings

__all__ = ["MLXModelLoader"]

_log = logging.getLogger("semantic.model_loader")


class MLXModelLoader:
    """Loads with `mlx_lm.load`. `max_context_length` is the settings' where it is not given."""

    def __init__(self, max_context_length: int | None = None) -> None:
        self.max_context_length = max_context_length or MLXSettings().max_context_length

    def load_model(self, model_id: str) -> tuple[Any, Any]:
        """(model, tokenizer); `tokenizer.model_max_length` is the context length, whatever the model's files say.

        Nothing of a model's own code runs. Raises what `mlx_lm.load` raises.
        """
        import mlx_lm

        target = self.max_context_length
        config = {"model_max_length": target, "truncation_side": "left"}
        model, tokenizer = mlx_lm.load(model_id, tokenizer_config=config)
        _log.info("Tokenizer max length: %s tokens", f"{tokenizer.model_max_length:,}")
        positions = getattr(getattr(model, "args", None), "max_position_embeddings", None)
        if isinstance(positions, int) and positions < target:
            _log.warning("The model has %s positions, fewer than the %s that are asked for", positions, target)
        return model, tokenizer
