"""StarCoder: GPT-2 with one key and value head for all queries. Source: https://arxiv.org/abs/2305.06161."""

from dataclasses import dataclass, field
from typing import Any

from ..nn import Attention, HeadwiseAttention
from .base import ModelNames
from .gpt2 import FusedAttention
from .gpt2 import Model as Gpt2
from .gpt2 import ModelArgs as Gpt2Args


@dataclass
class ModelArgs(Gpt2Args):
    hidden_act: str = field(default="gelu_pytorch_tanh", kw_only=True)
    multi_query: bool = True

    def __post_init__(self) -> None:
        self.num_key_value_heads = 1 if self.multi_query else None
        super().__post_init__()


class Headwise(HeadwiseAttention):
    qkv_name, out_name = "c_attn", "c_proj"


class Model(Gpt2):
    names = ModelNames(backbone="transformer", embed="wte", layers="h", norm="ln_f")
    rules = ()

    @classmethod
    def mixer(cls, args: Any, index: int) -> Attention:
        kind = FusedAttention if args.multi_query else Headwise
        return kind(cls.attention_options(args, index))
