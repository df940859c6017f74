"""Talkie: norms without weights, gains on every branch, and each layer adds the embeddings again.

Source: https://huggingface.co/lewtun/talkie-1930-13b-it-hf.
"""

from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import Attention, AttentionOptions, GatedMLP, Rope, UnitRMSNorm
from ..state import LayerState, StateSpec
from .base import Backbone, Cache, CausalLM, DecoderArgs, ModelNames, layer_state
from .weights import Rename


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


class RotatedNorms(Attention):
    """Heads are normed after their rotation, which turns backwards; queries have a gain for each head."""

    out_name = "attn_resid"

    def __init__(self, options: AttentionOptions, eps: float):
        super().__init__(options)
        for name in ("query", "key", "value"):
            self[f"attn_{name}"] = self.pop(f"{name[0]}_proj")
        self.head_gain, self._norm = Gain("head_g", options.num_heads), UnitRMSNorm(eps)

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array | None]:
        queries, keys, values = (
            mx.unflatten(self[f"attn_{name}"](x), -1, (-1, self._options.head_dim)).transpose(0, 2, 1, 3)
            for name in ("query", "key", "value")
        )
        return queries, keys, values, None

    def _place(self, queries: mx.array, keys: mx.array, position: int | mx.array) -> tuple[mx.array, mx.array]:
        queries, keys = super()._place(queries, keys, position)
        gains = self.head_gain["head_g"].astype(queries.dtype)
        return self._norm(queries) * gains[:, None, None], self._norm(keys)


class FeedForward(GatedMLP):
    gate_name, up_name, down_name = "mlp_gate", "mlp_linear", "mlp_resid"


class Block(nn.Module):
    def __init__(self, args: ModelArgs, attention: Attention):
        super().__init__()
        self.attn, self.mlp = attention, FeedForward(args.hidden_size, args.intermediate_size, args.hidden_act)
        self.attn_gain, self.mlp_gain, self.embed_skip = Gain("a_g"), Gain("a_g"), Gain("a_g")
        self._norm = UnitRMSNorm(args.rms_norm_eps)

    def state_spec(self) -> StateSpec:
        return self.attn.state_spec()

    def __call__(self, x: mx.array, first: mx.array, state: LayerState = None) -> mx.array:
        x = x + self.attn_gain(self.attn(self._norm(x), state))
        return x + self.mlp_gain(self.mlp(self._norm(x))) + self.embed_skip(first)


class SkipBackbone(Backbone):
    def through(self, h: mx.array, cache: Cache, inputs: mx.array) -> mx.array:
        norm = self[self._names.norm]
        h = first = norm(h)
        for i, block in enumerate(self[self._names.layers]):
            h = block(h, first, layer_state(cache, i))
        return norm(h)


class Model(CausalLM):
    names = ModelNames(embed="embed", layers="blocks")
    backbone_type = SkipBackbone
    rules = (Rename(r"^lm_head$", "lm_head.weight"),)

    def __init__(self, args: ModelArgs):
        super().__init__(args)
        self.lm_head_gain = Gain("w_g")

    def logits(self, hidden: mx.array) -> mx.array:
        return self.lm_head_gain(super().logits(hidden))

    def final_norm(self, args: Any) -> nn.Module:
        return UnitRMSNorm(args.rms_norm_eps)

    def layer(self, args: Any, index: int) -> nn.Module:
        heads, kv_heads, size = args.heads
        divisors = mx.array([args.rope_theta ** (2 * i / size) for i in range(size // 2)], mx.float32)
        back = Rope(size, freqs=-divisors, base=None, scale=1.0, traditional=False)
        return Block(
            args, RotatedNorms(AttentionOptions(args.hidden_size, heads, kv_heads, size, back), args.rms_norm_eps)
        )
