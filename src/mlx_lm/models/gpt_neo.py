"""GPT-Neo: learned positions, unscaled scores, every second layer sees a window. https://doi.org/10.5281/zenodo.5297715."""

from typing import Any, ClassVar

from ..nn import LayerNames, OutProjAttention
from .base import ModelNames
from .config import DecoderArgs, check_kinds
from .dense import DenseModel
from .positions import LearnedPositions
from .starcoder2 import FeedForward
from .weights import Rename


class ModelArgs(DecoderArgs):
    feed_forward_ratio = 4
    aliases: ClassVar = {"num_heads": "num_attention_heads", "num_layers": "num_hidden_layers"}
    layer_norm_eps: float = 1e-5
    hidden_act: str = "gelu_new"
    tie_word_embeddings: bool = True
    window_size: int = 256
    attention_layers: list[str] | None = None
    attention_types: list[Any] | None = None  # [[["global", "local"], 12]]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention_layers is None:
            types = self.attention_types or [[["global", "local"], (self.num_hidden_layers + 1) // 2]]
            layers = [kind for kinds, times in types for _ in range(times) for kind in kinds]
            self.attention_layers = layers if self.attention_types else layers[: self.num_hidden_layers]
        check_kinds(self, "attention_layers", ("global", "local"))

    def window(self, index: int) -> int | None:
        assert self.attention_layers is not None
        return self.window_size if self.attention_layers[index] == "local" else None


class Model(DenseModel):
    names = ModelNames(backbone="transformer", embed="wte", layers="h", norm="ln_f")
    layer_names = LayerNames("attn", "mlp", "ln_1", None, "ln_2")
    attention_type = OutProjAttention
    backbone_type = LearnedPositions
    attention: ClassVar = {"rope": None, "out_bias": True, "scale": 1.0}
    feed_forward_type = FeedForward
    feed_forward_options: ClassVar = {"bias": True}
    rules = (
        Rename(r"^(h|wte|wpe|ln_f)\.", r"transformer.\1."),
        Rename(r"\.attn\.attention\.", ".attn."),
    )
