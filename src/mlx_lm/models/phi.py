"""Phi 1, 1.5 and 2: attention and feed-forward in parallel, biases everywhere. https://arxiv.org/abs/2309.05463."""

from ..nn import MLP, Attention, LayerNames
from .base import DecoderArgs, ModelNames
from .dense import DenseModel


class ModelArgs(DecoderArgs):
    layer_norm_eps: float = 1e-5
    hidden_act: str = "gelu_new"
    partial_rotary_factor: float = 0.5
    qk_layernorm: bool = False


class PhiAttention(Attention):
    out_name, q_norm_name, k_norm_name = "dense", "q_layernorm", "k_layernorm"


class FeedForward(MLP):
    up_name, down_name = "fc1", "fc2"


class Model(DenseModel):
    names = ModelNames(norm="final_layernorm")
    layer_names = LayerNames(pre_feed_forward=None)
    attention_type = PhiAttention
    attention = {"bias": True, "out_bias": True}
    qk_norm = "qk_layernorm"
    feed_forward_type = FeedForward
    feed_forward_options = {"bias": True}
    parallel = head_bias = True
