"""GPT-J: parallel branches after one norm, rotation by neighbours. https://github.com/kingoflolz/mesh-transformer-jax."""

from ..nn import MLP, LayerNames, OutProjAttention, named
from . import gpt2
from .parts import Backbone, Rename


class ModelArgs(gpt2.ModelArgs):
    rotary_dim: int = 64
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False


class Model(gpt2.Model):
    layer_names = LayerNames("attn", "mlp", "ln_1", None, None)
    attention_type = OutProjAttention
    backbone_type = Backbone
    traditional_rope = True
    attention = {}
    feed_forward_type = named(MLP, up_name="fc_in", down_name="fc_out")
    parallel = head_bias = True
    rules = (Rename(r"^transformer\.", "model."),)
