"""Persimmon: biased norms on queries and keys, squared ReLU, partial rope. https://www.adept.ai/blog/persimmon-8b."""

from ..nn import HeadwiseAttention
from .gpt_neox import FeedForward
from .parts import DecoderArgs, DenseModel, ModelNames


class ModelArgs(DecoderArgs):
    layer_norm_eps: float = 1e-5
    hidden_act: str = "relu2"
    max_position_embeddings: int = 16384
    partial_rotary_factor: float = 0.5
    qk_layernorm: bool = True


class NormedHeads(HeadwiseAttention):
    qkv_name, out_name = "query_key_value", "dense"
    q_norm_name, k_norm_name = "q_layernorm", "k_layernorm"


class Model(DenseModel):
    names = ModelNames(norm="final_layernorm")
    attention_type = NormedHeads
    attention = {"fused": True, "bias": True, "out_bias": True}
    qk_norm = "qk_layernorm"
    feed_forward_type = FeedForward
    feed_forward_options = {"bias": True}
