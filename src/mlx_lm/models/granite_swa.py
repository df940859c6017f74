"""Granite with windows and sinks, and a rope base for each layer. Source: https://huggingface.co/ibm-granite."""

from . import granite
from .config import refuse
from .dense import DenseModel, SlidingArgs


class WindowArgs(SlidingArgs):
    """Every fourth layer is full, from the first on; a base of 0 means no rope."""

    per_layer = {"layer_rope_theta": ()}
    sliding_window: int | None = 128
    layer_rope_theta: list[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(min(self.layer_rope_theta or [0]) < 0, "layer_rope_theta must not be negative")

    def slides(self, index: int) -> bool:
        return index % 4 != 0


class Sinks(DenseModel):
    """What a Granite family adds to its attention."""

    attention = {"sinks": True}


class ModelArgs(WindowArgs, granite.ModelArgs):
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    max_position_embeddings: int = 8192


Model = Sinks
