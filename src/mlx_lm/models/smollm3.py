"""SmolLM3: Llama with no rope in every fourth layer. Source: https://huggingface.co/blog/smollm3."""

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
        super().__post_init__()

    def slides(self, index: int) -> bool | None:
        return None if self.sliding_window is None or self.no_rope_layers is None else not self.no_rope_layers[index]


Model = DenseModel
