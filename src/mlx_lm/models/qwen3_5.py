"""Qwen3.5's multimodal checkpoints: the text tower and its next-token head."""

from .multimodal import TextTower
from .qwen3_5_text import Model as TextModel
from .qwen3_5_text import ModelArgs
from .weights import Weights

__all__ = ["Model", "ModelArgs"]


class Model(TextTower):
    text_model = TextModel

    def sanitize(self, weights: Weights) -> Weights:
        """As for every model; a checkpoint with a next-token head (`mtp.*`) also gives the text model one."""
        weights = super().sanitize(weights)
        if isinstance(self.language_model, TextModel):
            self.language_model.add_next_token_head(weights)
        return weights
