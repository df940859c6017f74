"""SmolLM3: Llama with no rope in every fourth layer. Source: https://huggingface.co/blog/smollm3."""

from typing import Any

from ..errors import ConfigError
from .dense import DenseModel, SlidingArgs


class ModelArgs(SlidingArgs):
    attention_bias: bool = False
    mlp_bias: bool = False
    max_position_embeddings: int = 32768
    rope_theta: float = 2000000.0
    tie_word_embeddings: bool = True
    use_sliding_window: bool = False
    no_rope_layers: list[int] | None = None  # 1 where there is a rope
    no_rope_layer_interval: int = 4

    def __post_init__(self) -> None:
        if not self.no_rope_layers:
            every = max(self.no_rope_layer_interval, 1)
            self.no_rope_layers = [int((i + 1) % every != 0) for i in range(self.num_hidden_layers)]
        if len(self.no_rope_layers) != self.num_hidden_layers:
            raise ConfigError(f"config.json: no_rope_layers has {len(self.no_rope_layers)} entries, not one a layer.")
        if not self.use_sliding_window:
            self.sliding_window = self.layer_types = None
        elif self.layer_types is None and self.sliding_window is not None:
            self.layer_types = ["full_attention" if rope else "sliding_attention" for rope in self.no_rope_layers]
        super().__post_init__()


class Model(DenseModel):
    def has_rope(self, args: Any, index: int) -> bool:
        return bool(args.no_rope_layers[index])
