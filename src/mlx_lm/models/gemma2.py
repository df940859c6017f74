"""Gemma 2: norms around both branches, soft-capped scores and logits. Source: https://arxiv.org/abs/2408.00118."""

from typing import Any

from ..errors import ConfigError
from ..nn import SANDWICH_NORM, AttentionOptions
from .dense import SlidingArgs
from .gemma import Model as Gemma


class ModelArgs(SlidingArgs):
    head_dim: int | None = 256
    hidden_activation: str | None = None
    query_pre_attn_scalar: float = 256.0
    sliding_window: int | None = 4096
    sliding_window_pattern: int | None = 2
    attn_logit_softcapping: float | None = 50.0
    final_logit_softcapping: float | None = 30.0
    attention_bias: bool = False
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        self.hidden_act = self.hidden_activation or "gelu_pytorch_tanh"
        super().__post_init__()
        if not self.query_pre_attn_scalar > 0:
            raise ConfigError(f"config.json: query_pre_attn_scalar must be positive, not {self.query_pre_attn_scalar}.")


class Model(Gemma):
    layer_names = SANDWICH_NORM

    def attention_options(self, args: Any, index: int, **changes: Any) -> AttentionOptions:
        usual = {"scale": args.query_pre_attn_scalar**-0.5, "softcap": args.attn_logit_softcapping or None}
        return super().attention_options(args, index, **(usual | changes))
