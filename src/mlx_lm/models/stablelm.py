"""StableLM 2 and 3B: a quarter of each head rotated, layer norms. Source: https://arxiv.org/abs/2402.17834."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..nn import PRE_NORM, Attention, AttentionOptions, LayerNames, LayerNorm
from .parts import BiasArgs, DenseModel


class ModelArgs(BiasArgs):
    aliases = {"use_qkv_bias": "attention_bias"}
    layer_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096
    partial_rotary_factor: float = 0.25
    qk_layernorm: bool = False
    use_parallel_residual: bool = False


class NormEachHead(nn.Module):
    """A layer norm of its own for each head of x (B, H, L, D)."""

    def __init__(self, num_heads: int, head_dim: int, eps: float):
        super().__init__()
        self.norms = [LayerNorm(head_dim, eps, bias=False) for _ in range(num_heads)]

    def __call__(self, x: mx.array) -> mx.array:
        return mx.stack([norm(x[:, i]) for i, norm in enumerate(self.norms)], axis=1)


class HeadNorms(Attention):
    q_norm_name, k_norm_name = "q_layernorm", "k_layernorm"

    def __init__(self, options: AttentionOptions):
        super().__init__(options)
        if options.qk_norm is not None:
            self.q_layernorm = NormEachHead(options.num_heads, options.head_dim, self["q_layernorm"].eps)
            self.k_layernorm = NormEachHead(options.num_kv_heads, options.head_dim, self["k_layernorm"].eps)


class Model(DenseModel):
    attention_type = HeadNorms
    qk_norm = "qk_layernorm"
    attention = {"out_bias": False}
    parallel = "use_parallel_residual"

    def names_at(self, args: Any, index: int) -> LayerNames:
        return LayerNames(pre_feed_forward=None) if args.use_parallel_residual else PRE_NORM
