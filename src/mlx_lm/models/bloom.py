"""BLOOM: ALiBi, projections fused head by head, a norm on the embeddings. Source: https://arxiv.org/abs/2211.05100."""

from typing import Any

import mlx.core as mx

from ..nn import AlibiAttention, DecoderLayer, HeadwiseAttention, LayerNames, LayerNorm
from ..state import LayerState
from .gpt_neox import FeedForward
from .parts import Backbone, CausalLM, DecoderArgs, DenseModel, ModelNames, Rename


class ModelArgs(DecoderArgs):
    feed_forward_ratio = 4
    aliases = {"n_embed": "hidden_size"}
    layer_norm_eps: float = 1e-5
    hidden_act: str = "gelu_pytorch_tanh"
    tie_word_embeddings: bool = True
    apply_residual_connection_post_layernorm: bool = False


class BloomAttention(HeadwiseAttention, AlibiAttention):
    qkv_name, out_name = "query_key_value", "dense"


class NormedResiduals(DecoderLayer):
    """The branches' results are added to what the branches read, not to the unnormalized input."""

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        h = self.input_layernorm(x)
        h = self.post_attention_layernorm(h + self._mix(h, state))
        return h + self._feed(h)


class NormedEmbeddings(Backbone):
    def __init__(self, model: CausalLM, args: Any):
        super().__init__(model, args)
        self.word_embeddings_layernorm = LayerNorm(args.hidden_size, args.layer_norm_eps)

    def embedded(self, inputs: mx.array, input_embeddings: mx.array | None) -> mx.array:
        return self.word_embeddings_layernorm(super().embedded(inputs, input_embeddings))


class Model(DenseModel):
    names = ModelNames(backbone="transformer", embed="word_embeddings", layers="h", norm="ln_f")
    layer_names = LayerNames("self_attention")
    backbone_type = NormedEmbeddings
    attention_type = BloomAttention
    feed_forward_type = FeedForward
    feed_forward_options = {"bias": True}
    attention = {"rope": None, "fused": True, "bias": True, "out_bias": True}
    rules = (Rename(r"^(h|word_embeddings|word_embeddings_layernorm|ln_f)\.", r"transformer.\1."),)

    def layer_type_at(self, args: Any, index: int) -> type[DecoderLayer]:
        return NormedResiduals if args.apply_residual_connection_post_layernorm else DecoderLayer
