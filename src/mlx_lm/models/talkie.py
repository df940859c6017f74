"""Talkie: norms without weights, gains on every branch, and each layer adds the embeddings again.

Source: https://huggingface.co/lewtun/talkie-1930-13b-it-hf.
"""

from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import DecoderLayer, GatedMLP, LayerNames, UnitRMSNorm, named
from ..nn.attention import RotatedNormAttention
from ..state import LayerState
from . import nanochat
from .parts import DecoderArgs, ModelNames, PassingBackbone, Rename


class ModelArgs(DecoderArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = 1.1920928955078125e-07
    rope_theta: float = 1000000.0


class Gain(nn.Module):
    """A factor, one for all or one for each head."""

    def __init__(self, name: str, size: int = 1):
        super().__init__()
        self._name = name
        self[name] = mx.ones((size,))

    def __call__(self, x: mx.array) -> mx.array:
        return x * self[self._name].astype(x.dtype)


class RotatedNorms(RotatedNormAttention):
    """Heads are normed after their rotation, which turns backwards; queries have a gain for each head."""

    q_name, k_name, v_name, out_name = "attn_query", "attn_key", "attn_value", "attn_resid"

    def add(self, args: Any, index: int) -> None:
        self.head_gain = Gain("head_g", args.num_attention_heads)

    def _place(self, queries: mx.array, keys: mx.array, position: int | mx.array) -> tuple[mx.array, mx.array]:
        queries, keys = super()._place(queries, keys, position)
        gains = self.head_gain["head_g"].astype(queries.dtype)
        return queries * gains[:, None, None], keys


class Block(DecoderLayer):
    def add(self, args: Any, index: int) -> None:
        self.attn_gain, self.mlp_gain, self.embed_skip = Gain("a_g"), Gain("a_g"), Gain("a_g")
        self._norm = UnitRMSNorm(args.rms_norm_eps)

    def pass_on(self, x: mx.array, state: LayerState, first: mx.array) -> tuple[mx.array, mx.array]:
        """x (B, L, D) after the layer, with the embeddings `first` (B, L, D) added again."""
        x = x + self.attn_gain(self.attn(self._norm(x), state))
        return x + self.mlp_gain(self.mlp(self._norm(x))) + self.embed_skip(first), first


class SkipBackbone(PassingBackbone):
    def begin(self, h: mx.array, inputs: mx.array) -> tuple[mx.array, Any]:
        h = self[self._names.norm](h)
        return h, h


class Model(nanochat.Model):
    names = ModelNames(embed="embed", layers="blocks")
    layer_names = LayerNames("attn", "mlp", None, None, None)
    backbone_type = SkipBackbone
    layer_type = Block
    attention_type = RotatedNorms
    feed_forward_type = named(GatedMLP, gate_name="mlp_gate", up_name="mlp_linear", down_name="mlp_resid")
    rules = (Rename(r"^lm_head$", "lm_head.weight"),)

    def __init__(self, args: ModelArgs):
        super().__init__(args)
        self.lm_head_gain = Gain("w_g")

    def logits(self, hidden: mx.array) -> mx.array:
        return self.lm_head_gain(super().logits(hidden))
