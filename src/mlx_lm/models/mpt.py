"""MPT: ALiBi, no biases, queries, keys and values limited in size. Source: https://www.databricks.com/blog/mpt-7b."""

from dataclasses import field
from typing import Any

from ..errors import ConfigError
from ..nn import MLP, AlibiAttention, LayerNames
from .base import DecoderArgs, ModelNames
from .config import refuse
from .dense import DenseModel

_FIXED = {"prefix_lm": False, "qk_ln": False, "alibi": True, "attn_type": "multihead_attention"}


class ModelArgs(DecoderArgs):
    fixed = {"no_bias": (True,)}
    layer_norm_eps: float = 1e-5
    hidden_act: str = "gelu"
    tie_word_embeddings: bool = True
    attn_config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.intermediate_size = 4 * self.hidden_size
        self.clip_qkv = self.attention_number("clip_qkv") or None
        for key, value in _FIXED.items():
            refuse(self.attn_config.get(key, value) != value, f"attn_config.{key} must be {value!r} for 'mpt'")

    def attention_scale(self, index: int) -> float | None:
        return self.attention_number("softmax_scale")

    def attention_number(self, name: str) -> float | None:
        """A number of `attn_config`, or None."""
        value = self.attn_config.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ConfigError(f"config.json: attn_config.{name} must be a number, not {value!r}.")
        return value


class MptAttention(AlibiAttention):
    qkv_name, out_name = "Wqkv", "out_proj"


class Model(DenseModel):
    names = ModelNames(backbone="transformer", embed="wte", layers="blocks", norm="norm_f")
    layer_names = LayerNames("attn", "ffn", "norm_1", None, "norm_2")
    attention_type = MptAttention
    attention = {"rope": None, "fused": True}
    feed_forward_type = MLP
    norm_options = {"bias": False}
