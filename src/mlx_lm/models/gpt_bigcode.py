"""StarCoder: GPT-2 with one key and value head for all queries. Source: https://arxiv.org/abs/2305.06161."""

from typing import Any

from ..nn import Attention, HeadwiseAttention, named
from . import gpt2
from .base import ModelNames


class ModelArgs(gpt2.ModelArgs):
    hidden_act: str = "gelu_pytorch_tanh"
    multi_query: bool = True

    def __post_init__(self) -> None:
        self.num_key_value_heads = 1 if self.multi_query else None
        super().__post_init__()


Headwise = named(HeadwiseAttention, qkv_name="c_attn", out_name="c_proj")


class Model(gpt2.Model):
    names = ModelNames(backbone="transformer", embed="wte", layers="h", norm="ln_f")
    rules = ()

    def attention_type_at(self, args: Any, index: int) -> type[Attention]:
        return gpt2.FusedAttention if args.multi_query else Headwise
