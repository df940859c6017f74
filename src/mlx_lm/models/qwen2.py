"""Qwen 2 and 2.5: biases on queries, keys and values. Source: https://arxiv.org/abs/2407.10671."""

from .dense import DenseModel, SlidingArgs


class ModelArgs(SlidingArgs):
    """Windows on the layers from `max_window_layers` on, when `use_sliding_window` says so."""

    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_window_layers: int = 28
    max_position_embeddings: int = 32768

    def slides(self, index: int) -> bool:
        return index >= self.max_window_layers


class Model(DenseModel):
    attention = {"bias": True}
