"""StarCoder: GPT-2 with one key and value head for all queries. Source: https://arxiv.org/abs/2305.06161."""

from typing import Any

from ..nn import Attention, HeadwiseAttention
from . import gpt2
from .base import ModelNames


class ModelArgs(gpt2.ModelArgs):
    hidden_act: str = "gelu_pytorch_tanh"
    multi_query: bool = True

    def __post_init__(self) -> None:
        self.num_key_value_heads = 1 if self.multi_query else None
        super().__post_init__()


class Headwise(HeadwiseAttention):
    qkv_name, out_name = "c_attn", "c_proj"


class Model(gpt2.Model):
    names = ModelNames(backbone="transformer", embed="wte", layers="h", norm="ln_f")
    rules = ()

    def mixer(self, args: Any, index: int) -> Attention:
        kind = gpt2.FusedAttention if args.multi_query else Headwise
        return kind(self.attention_options(args, index))
