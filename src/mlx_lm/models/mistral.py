"""Mistral: Llama with a sliding window on every layer. Source: https://arxiv.org/abs/2310.06825."""

from .dense import DenseModel, SlidingArgs


class ModelArgs(SlidingArgs):
    sliding_window: int | None = 4096
    max_position_embeddings: int = 131072


Model = DenseModel
