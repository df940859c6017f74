"""Hunyuan 4: latent attention to chosen keys with sinks and a gate, and residual streams that do not mix.

Source: https://huggingface.co/tencent/Hy4-preview.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import mlx.core as mx
from mlx import nn

from .. import kernels
from ..nn import DecoderLayer, LatentOptions, MoE, Rope, named
from ..nn.hashed import limited
from ..nn.indexed import Chosen, IndexedLatentAttention, IndexOptions
from ..state import LayerState
from . import glm_moe_dsa
from .deepseek_v4 import StreamBackbone
from .weights import Drop, Rename


class ModelArgs(glm_moe_dsa.ModelArgs):
    fixed = glm_moe_dsa.ModelArgs.fixed | {"rope_interleave": (False,)}
    positive = ("swiglu_limit",)
    max_position_embeddings: int = 262144
    q_lora_rank: int | None = 1536
    rope_interleave: bool = False
    moe_intermediate_size: int = 768
    first_k_dense_replace: int = 1
    routed_scaling_factor: float = 2.827
    index_n_heads: int = 16
    index_topk_freq: int = 4
    hc_mult: int = 4
    hc_magnitude: float = 2.0
    hc_eps: float = 1e-6
    swiglu_limit: float = 10.0

    def __post_init__(self) -> None:
        self.num_key_value_heads = self.num_attention_heads
        super().__post_init__()


class LastRope(Rope):
    """Rotates the last features, not the first."""

    def __init__(self, rope: Rope):
        self.rope, self.dims = rope, rope.dims

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        plain, last = mx.split(x, [x.shape[-1] - self.dims], axis=-1)
        return mx.concatenate([plain, self.rope(last, offset)], axis=-1)


class Streams(nn.Module):
    """Each stream is its own residual: a block reads a weighted sum of them, and its output is added to each."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        n = args.hc_mult
        self._eps, self._norm_eps, self._magnitude = args.hc_eps, args.rms_norm_eps, args.hc_magnitude
        self.fn, self.base, self.scale = mx.zeros((2 * n, n * args.hidden_size)), mx.zeros((2 * n,)), mx.ones((2,))

    def around(self, x: mx.array, block: Callable[[mx.array], tuple[mx.array, Any]]) -> tuple[mx.array, Any]:
        """Streams (B, L, N, D) after `block`, and the second thing that it returns."""
        raw = kernels.rms_norm(x.flatten(2).astype(mx.float32), None, self._norm_eps) @ self.fn.astype(mx.float32).T
        gates = mx.sigmoid(raw * mx.repeat(self.scale, x.shape[2]) + self.base)
        pre, post = mx.split(gates[..., None], 2, axis=2)  # (B, L, N, 1)
        y, other = block(((pre + self._eps) * x).sum(axis=2).astype(x.dtype))
        return ((self._magnitude * post + self._eps) * y[:, :, None] + x).astype(x.dtype), other


class Layer(DecoderLayer):
    """Streams (B, L, N, D) through attention and feed-forward."""

    def add(self, args: Any, index: int) -> None:
        self.attn_hc, self.ffn_hc = Streams(args), Streams(args)

    def pass_on(self, x: mx.array, state: LayerState, chosen: Chosen | None) -> tuple[mx.array, Chosen | None]:
        x, chosen = self.attn_hc.around(x, lambda h: self.self_attn.pass_on(self["input_layernorm"](h), state, chosen))
        x, _ = self.ffn_hc.around(x, lambda h: (self.mlp(self["post_attention_layernorm"](h)), None))
        return x, chosen


class Backbone(StreamBackbone):
    """Passes on what each layer's queries look at."""

    def begin(self, h: mx.array, inputs: mx.array) -> tuple[mx.array, Any]:
        return super().begin(h, inputs)[0], None


class Model(glm_moe_dsa.Model):
    backbone_type = Backbone
    layer_type = Layer
    mixer_type = named(IndexedLatentAttention, gate_name="gate_proj")  # from the input itself
    traditional_index = False
    rules = (
        Drop(r"(^|\.)mtp_layers\."),
        Rename(r"\.hc_pre\.hc_", ".hc_"),
        Rename(r"\.hc_(attn|mlp)_layer\.hc_", r".\1_hc."),
        Rename(r"\.mlp_hc\.", ".ffn_hc."),
        Rename(r"\.hc_head\.hc_head_", ".hc_head.hc_"),
        Rename(r"\.learnable_sink_param$", ".sinks"),
        Rename(r"\.linear_gate\.", ".gate_proj."),
        *glm_moe_dsa.Model.rules,
    )

    def latent_options(self, args: Any, index: int) -> LatentOptions:
        return replace(super().latent_options(args, index), sinks=True)

    def index_options(self, args: Any, index: int) -> IndexOptions | None:
        options = super().index_options(args, index)
        if options is None or options.rope is None:
            return options
        return replace(options, rope=LastRope(options.rope), norm_eps=args.rms_norm_eps)

    def feed_forward(self, args: Any, index: int) -> nn.Module | None:
        block = super().feed_forward(args, index)
        if isinstance(block, MoE):
            block.switch_mlp.act = partial(limited, act=args.hidden_act, limit=args.swiglu_limit)
        return block
