"""nanochat: norms without weights, rotation the other way round, squared ReLU. https://github.com/karpathy/nanochat."""

from typing import Any, ClassVar

import mlx.core as mx
from mlx import nn

from ..nn import LayerNames, Rope, UnitRMSNorm, named
from ..nn.attention import RotatedNormAttention
from .parts import Backbone, BiasArgs, DenseModel, ModelNames, Rename, refuse
from .starcoder2 import FeedForward


class ModelArgs(BiasArgs):
    hidden_act: str = "relu2"
    final_logit_softcapping: float | None = 15.0


class NormedEmbeddings(Backbone):
    def embedded(self, inputs: mx.array, input_embeddings: mx.array | None) -> mx.array:
        return self[self._names.norm](super().embedded(inputs, input_embeddings))


class Model(DenseModel):
    names = ModelNames(backbone="transformer", embed="wte", layers="h")
    layer_names = LayerNames("attn")
    backbone_type: ClassVar[type[Backbone]] = NormedEmbeddings
    attention_type = named(RotatedNormAttention, q_name="c_q", k_name="c_k", v_name="c_v", out_name="c_proj")
    feed_forward_type = FeedForward
    qk_norm = True
    rules = (
        Rename(r"^model\.embed_tokens\.", "transformer.wte."),
        Rename(r"^model\.layers\.", "transformer.h."),
        Rename(r"\.self_attn\.([qkv])_proj\.", r".attn.c_\1."),
        Rename(r"\.self_attn\.o_proj\.", ".attn.c_proj."),
        Rename(r"\.mlp\.fc1\.", ".mlp.c_fc."),
        Rename(r"\.mlp\.fc2\.", ".mlp.c_proj."),
    )

    def rope(self, args: Any, index: int) -> Rope | None:
        rope = super().rope(args, index)
        assert rope is not None
        freqs = rope.freqs
        if freqs is None:
            refuse(rope.base is None, "a rope that depends on the length is not supported for 'nanochat'")
            freqs = mx.array([rope.base ** (2 * i / rope.dims) for i in range(rope.dims // 2)], mx.float32)
        return Rope(rope.dims, freqs=-freqs, scale=rope.scale)

    @classmethod
    def norm_of(cls, args: Any, size: int) -> nn.Module:
        return UnitRMSNorm(args.rms_norm_eps)
