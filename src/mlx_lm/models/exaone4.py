"""EXAONE 4: norms after the branches; full layers have no rope where others slide. https://arxiv.org/abs/2507.11407."""

from ..nn import POST_NORM
from .dense import DenseModel, SlidingArgs


class ModelArgs(SlidingArgs):
    rms_norm_eps: float = 1e-5
    sliding_window: int | None = 4096
    sliding_window_pattern: int | str | None = 4

    def __post_init__(self) -> None:
        pattern = self.sliding_window_pattern or None
        self.sliding_window_pattern = None if isinstance(pattern, str) else pattern  # type: ignore[assignment]
        if isinstance(pattern, str) and self.layer_types is None:  # such as "LLLG"
            kinds = {"L": "sliding_attention", "G": "full_attention"}
            letters = [pattern[i % len(pattern)] for i in range(self.num_hidden_layers)]
            self.layer_types = [kinds.get(letter, letter) for letter in letters]
        super().__post_init__()


class Model(DenseModel):
    layer_names = POST_NORM
    qk_norm = rope_unless_sliding = True
