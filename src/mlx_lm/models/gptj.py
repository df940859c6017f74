"""GPT-J: parallel branches after one norm, rotation by neighbours. https://github.com/kingoflolz/mesh-transformer-jax."""

from dataclasses import dataclass, field
from typing import Any

import mlx.nn as nn

from ..nn import MLP, Attention, AttentionOptions, LayerNames, RopeParameters
from .base import Backbone
from .gpt2 import Model as Gpt2
from .gpt2 import ModelArgs as Gpt2Args
from .weights import Rename


@dataclass
class ModelArgs(Gpt2Args):
    rotary_dim: int = 64
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = field(default=False, kw_only=True)

    def layer_rope(self, index: int) -> RopeParameters:
        return RopeParameters(partial=self.rotary_dim / self.heads[2])


class GptjAttention(Attention):
    out_name = "out_proj"


class FeedForward(MLP):
    up_name, down_name = "fc_in", "fc_out"


class Model(Gpt2):
    layer_names = LayerNames("attn", "mlp", "ln_1", None, None)
    attention_type = GptjAttention
    backbone_type = Backbone
    traditional_rope = True
    rules = (Rename(r"^transformer\.", "model."),)

    @classmethod
    def attention_options(cls, args: Any, index: int, **changes: Any) -> AttentionOptions:
        rope = cls.rope(args, index)
        return super().attention_options(args, index, rope=rope, fused=False, bias=False, out_bias=False, **changes)

    @classmethod
    def feed_forward(cls, args: Any, index: int) -> nn.Module:
        return FeedForward(args.hidden_size, args.intermediate_size, args.hidden_act, bias=True)

    @classmethod
    def parallel(cls, args: Any) -> bool:
        return True

    @staticmethod
    def head_bias(args: Any) -> bool:
        return True
