"""GPT-Neo: learned positions, unscaled scores, every second layer sees a window. https://doi.org/10.5281/zenodo.5297715."""

from typing import Any

from ..nn import OutProjAttention
from . import gpt2
from .base import ModelNames
from .weights import Rename


class ModelArgs(gpt2.ModelArgs):
    per_layer = {"attention_layers": ("global", "local")}
    fixed = {"scale_attn_by_inverse_layer_idx": (False,)}
    aliases = {"num_heads": "num_attention_heads", "num_layers": "num_hidden_layers"}
    max_position_embeddings: int = 2048
    window_size: int = 256
    attention_layers: list[str] | None = None
    attention_types: list[Any] | None = None  # [[["global", "local"], 12]]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention_layers is None:
            types = self.attention_types or [[["global", "local"], (self.num_hidden_layers + 1) // 2]]
            layers = [kind for kinds, times in types for _ in range(times) for kind in kinds]
            self.attention_layers = layers if self.attention_types else layers[: self.num_hidden_layers]

    def attention_scale(self, index: int) -> float:
        return 1.0

    def window(self, index: int) -> int | None:
        return self.window_size if (self.attention_layers or [])[index] == "local" else None


class Model(gpt2.Model):
    names = ModelNames(backbone="transformer", embed="wte", layers="h", norm="ln_f")
    attention_type = OutProjAttention
    attention = {"rope": None, "out_bias": True}
    rules = (Rename(r"^(h|wte|wpe|ln_f)\.", r"transformer.\1."), Rename(r"\.attn\.attention\.", ".attn."))
