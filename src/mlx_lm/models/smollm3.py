"""SmolLM3: Llama with no rope in every fourth layer. Source: https://huggingface.co/blog/smollm3."""

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

    def slides(self, index: int) -> bool | None:
        return None if self.sliding_window is None else not self.has_rope(index)


Model = DenseModel
