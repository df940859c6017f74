"""Phi 1, 1.5 and 2: attention and feed-forward in parallel, biases everywhere. https://arxiv.org/abs/2309.05463."""

from ..nn import MLP, Attention, LayerNames, named
from .parts import DecoderArgs, DenseModel, ModelNames


class ModelArgs(DecoderArgs):
    layer_norm_eps: float = 1e-5
    hidden_act: str = "gelu_new"
    partial_rotary_factor: float = 0.5
    qk_layernorm: bool = False


FeedForward = named(MLP, up_name="fc1", down_name="fc2")


class Model(DenseModel):
    names = ModelNames(norm="final_layernorm")
    layer_names = LayerNames(pre_feed_forward=None)
    attention_type = named(Attention, out_name="dense", q_norm_name="q_layernorm", k_norm_name="k_layernorm")
    attention = {"bias": True, "out_bias": True}
    qk_norm = "qk_layernorm"
    feed_forward_type = FeedForward
    feed_forward_options = {"bias": True}
    parallel = head_bias = True
