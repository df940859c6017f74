"""Falcon: projections fused by group of heads, parallel branches, rope or ALiBi. Source: https://arxiv.org/abs/2311.16867."""

from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import AlibiAttention, Attention, AttentionOptions, LayerNames, alibi_slopes
from .gpt_neox import FeedForward
from .parts import DecoderArgs, DenseModel, ModelNames, Rename, refuse


class ModelArgs(DecoderArgs):
    feed_forward_ratio = 4
    fixed = {"apply_residual_connection_post_layernorm": (False,), "num_ln_in_parallel_attn": (1, 2)}
    aliases = {"activation": "hidden_act", "ffn_hidden_size": "intermediate_size", "bias": "use_bias"}
    layer_norm_eps: float = 1e-5
    hidden_act: str = "gelu"
    tie_word_embeddings: bool = True
    alibi: bool = False
    use_bias: bool = False
    multi_query: bool = True
    parallel_attn: bool = True
    new_decoder_architecture: bool = False
    num_ln_in_parallel_attn: int | None = None

    def __post_init__(self) -> None:
        if not self.new_decoder_architecture:
            self.num_key_value_heads = 1 if self.multi_query else self.num_attention_heads
        super().__post_init__()
        refuse(self.new_decoder_architecture and not self.parallel_attn, "new_decoder_architecture needs parallel_attn")


class FalconAttention(Attention):
    """Each group's queries are followed by its key and its value."""

    qkv_name, out_name = "query_key_value", "dense"

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array | None]:
        o = self._options
        fused = self[self.qkv_name](x).reshape(*x.shape[:2], o.num_kv_heads, -1, o.head_dim)
        queries = fused[..., :-2, :].flatten(2, 3)
        queries, keys, values = (a.transpose(0, 2, 1, 3) for a in (queries, fused[..., -2, :], fused[..., -1, :]))
        return queries, keys, values, None


class FalconAlibi(FalconAttention, AlibiAttention):
    pass


class Model(DenseModel):
    names = ModelNames(backbone="transformer", embed="word_embeddings", layers="h", norm="ln_f")
    parallel = "parallel_attn"
    attention = {"fused": True}
    feed_forward_type = FeedForward
    rules = (Rename(r"^(h|word_embeddings|ln_f)\.", r"transformer.\1."),)

    def names_at(self, args: Any, index: int) -> LayerNames:
        if not args.parallel_attn:
            return LayerNames("self_attention")
        if args.new_decoder_architecture and args.num_ln_in_parallel_attn in (None, 2):
            return LayerNames("self_attention", pre_mixer="ln_attn", pre_feed_forward="ln_mlp")
        return LayerNames("self_attention", pre_feed_forward=None)

    def mixer(self, args: Any, index: int) -> nn.Module:
        if not args.alibi:
            return FalconAttention(self.attention_options(args, index))
        options: AttentionOptions = self.attention_options(args, index, rope=None)
        # The bias is scaled with the scores, unlike elsewhere.
        return FalconAlibi(options, tuple(s * options.head_dim**-0.5 for s in alibi_slopes(options.num_heads)))
