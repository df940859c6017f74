"""GPT-J: parallel branches after one norm, rotation by neighbours. https://github.com/kingoflolz/mesh-transformer-jax."""

from typing import ClassVar

from ..nn import MLP, LayerNames, OutProjAttention, RopeParameters
from .base import Backbone
from .gpt2 import Model as Gpt2
from .gpt2 import ModelArgs as Gpt2Args
from .weights import Rename


class ModelArgs(Gpt2Args):
    rotary_dim: int = 64
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False

    def layer_rope(self, index: int) -> RopeParameters:
        return RopeParameters(partial=self.rotary_dim / self.heads[2])


class FeedForward(MLP):
    up_name, down_name = "fc_in", "fc_out"


class Model(Gpt2):
    layer_names = LayerNames("attn", "mlp", "ln_1", None, None)
    attention_type = OutProjAttention
    backbone_type = Backbone
    traditional_rope = True
    attention: ClassVar = {}
    feed_forward_type = FeedForward
    parallel = head_bias = True
    rules = (Rename(r"^transformer\.", "model."),)
