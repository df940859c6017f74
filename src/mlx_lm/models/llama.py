"""Llama and what computes like it (SmolLM, Yi, ...). Source: https://arxiv.org/abs/2407.21783."""

from .dense import DenseModel, SlidingArgs


class ModelArgs(SlidingArgs):
    attention_bias: bool = False
    mlp_bias: bool = False

    def window(self, index: int) -> int | None:
        """Without `layer_types` nothing slides: Llama itself has no windows."""
        return None if self.layer_types is None else super().window(index)


Model = DenseModel
