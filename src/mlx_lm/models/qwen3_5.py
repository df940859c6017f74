"""Qwen3.5's multimodal checkpoints: the text tower and its next-token head."""

from . import qwen3_5_text
from .multimodal import TextTower
from .weights import Weights

ModelArgs = qwen3_5_text.ModelArgs


class Model(TextTower):
    text_model = qwen3_5_text.Model

    def sanitize(self, weights: Weights) -> Weights:
        """As for every model; a checkpoint with a next-token head (`mtp.*`) also gives the text model one."""
        weights = super().sanitize(weights)
        if isinstance(self.language_model, qwen3_5_text.Model):
            self.language_model.add_next_token_head(weights)
        return weights
