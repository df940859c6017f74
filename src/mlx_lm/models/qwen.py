"""Qwen 1: one projection with biases, a gate under the name `w2`. Source: https://arxiv.org/abs/2309.16609."""

from ..nn import GatedMLP, LayerNames, named
from .gpt2 import FusedAttention
from .parts import DecoderArgs, DenseModel, ModelNames


class ModelArgs(DecoderArgs):
    """`use_dynamic_ntk` and `use_logn_attn` act past `seq_length` tokens only, which is the limit here."""

    fixed = {"no_bias": (True,), "scale_attn_weights": (True,)}

    aliases = {"kv_channels": "head_dim", "layer_norm_epsilon": "rms_norm_eps"}
    intermediate_size: int = 22016
    partial_rotary_factor: float = 1.0

    def layer_width(self, index: int) -> int:
        return self.intermediate_size // 2


class Model(DenseModel):
    names = ModelNames(backbone="transformer", embed="wte", layers="h", norm="ln_f")
    layer_names = LayerNames("attn", "mlp", "ln_1", None, "ln_2")
    attention_type = FusedAttention
    attention = {"fused": True, "bias": True}
    feed_forward_type = named(GatedMLP, gate_name="w2", up_name="w1", down_name="c_proj")
