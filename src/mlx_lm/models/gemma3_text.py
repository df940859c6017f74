"""Gemma 3: five sliding layers to a full one, each kind with its own rope. Source: https://arxiv.org/abs/2503.19786."""

from . import gemma2
from .parts import TwoRopeArgs, refuse


class ModelArgs(TwoRopeArgs, gemma2.ModelArgs):
    """Published text configs leave out what equals the defaults."""

    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int | None = 4
    vocab_size: int = 262208
    max_position_embeddings: int = 131072
    sliding_window_pattern: int | None = 6
    rope_theta: float = 1000000.0
    rope_local_base_freq: float | None = 10000.0
    final_logit_softcapping: float | None = None
    use_bidirectional_attention: bool | None = False

    def __post_init__(self) -> None:
        refuse(self.use_bidirectional_attention, "use_bidirectional_attention makes an encoder; it cannot generate")
        self.attn_logit_softcapping = None  # Gemma 3 computes without it, whatever the config says
        super().__post_init__()


class Model(gemma2.Model):
    qk_norm = True
