"""InternLM 2: one projection for queries, keys and values, laid out by key head. Source: https://arxiv.org/abs/2403.17297."""

from ..nn import LayerNames, named
from .falcon import FalconAttention
from .lfm2 import FeedForward
from .parts import DecoderArgs, DenseModel, ModelNames


class ModelArgs(DecoderArgs):
    aliases = {"bias": "attention_bias"}
    max_position_embeddings: int = 32768
    attention_bias: bool = True


class Model(DenseModel):
    names = ModelNames(embed="tok_embeddings", head="output")
    layer_names = LayerNames("attention", "feed_forward", "attention_norm", None, "ffn_norm")
    attention_type = named(FalconAttention, qkv_name="wqkv", out_name="wo")
    attention = {"fused": True}
    feed_forward_type = FeedForward
