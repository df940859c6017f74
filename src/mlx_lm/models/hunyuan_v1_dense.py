"""Hunyuan dense: norms on heads after their rotation, a rope base raised by alpha. https://github.com/Tencent-Hunyuan."""

from ..nn import RopeParameters, named
from ..nn.attention import RotatedNormAttention
from .config import BiasArgs
from .dense import DenseModel


class ModelArgs(BiasArgs):
    rms_norm_eps: float = 1e-5

    def layer_rope(self, index: int) -> RopeParameters:
        rope = self.rope_parameters()
        alpha = rope.scaling.get("alpha")
        if rope.kind != "dynamic" or not alpha:
            return rope
        dims = self.heads[2]
        return RopeParameters("default", rope.theta * rope.number("alpha") ** (dims / (dims - 2)))


class Model(DenseModel):
    attention_type = named(RotatedNormAttention, q_norm_name="query_layernorm", k_norm_name="key_layernorm")
    qk_norm = True
