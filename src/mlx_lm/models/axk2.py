"""A.X-K2: DeepSeek-V3.2 with gates on norms and on the attention's output. https://huggingface.co/skt/A.X-K2."""

from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import DecoderLayer, LatentOptions, Linear, RMSNorm
from ..nn.indexed import IndexedLatentAttention, IndexOptions
from . import deepseek_v32
from .weights import Rename


class ModelArgs(deepseek_v32.ModelArgs):
    fixed = {}  # one router, whatever a config calls it
    max_position_embeddings: int = 131072
    q_lora_rank: int | None = 384
    kv_lora_rank: int = 128
    qk_nope_head_dim: int = 64
    qk_rope_head_dim: int = 32
    v_head_dim: int = 64
    n_routed_experts: int | None = 128
    moe_intermediate_size: int = 512
    first_k_dense_replace: int = 1
    n_group: int | None = None
    topk_group: int | None = None
    index_n_heads: int = 16
    gated_norm_rank: int = 16


class GatedNorm(nn.Module):
    """norm(x), times the sigmoid of a narrow feed-forward of itself."""

    def __init__(self, size: int, rank: int, eps: float):
        super().__init__()
        self.norm = RMSNorm(size, eps)
        self.W_down = Linear(size, rank, bias=False)
        self.W_up = Linear(rank, size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        y = self.norm(x)
        return y * mx.sigmoid(self.W_up(nn.silu(self.W_down(y))))


class GatedIndexedAttention(IndexedLatentAttention):
    """Queries and a gate on the output come from the compressed queries before and after their norm."""

    def __init__(self, options: LatentOptions, index: IndexOptions | None):
        super().__init__(options, index)
        o = options
        size = o.num_heads * (o.nope_dim + o.rope_dim + o.value_dim)
        self.q_b_proj = Linear(2 * (o.q_rank or 0), size, bias=False)

    def _queries(self, x: mx.array, low: mx.array, compressed: mx.array) -> tuple[mx.array, mx.array | None]:
        o = self._options
        both = self.q_b_proj(mx.concatenate([compressed, low], axis=-1))
        both = mx.unflatten(both, -1, (o.num_heads, -1))
        queries, gate = mx.split(both, [o.nope_dim + o.rope_dim], axis=-1)
        return queries.flatten(2), gate.flatten(2)


class Model(deepseek_v32.Model):
    mixer_type = GatedIndexedAttention

    rules = (
        Rename(r"\.self_attn\.q_gate_proj\.", ".self_attn.q_b_proj."),
        Rename(r"layernorm\.mlp\.fc1\.", "layernorm.W_down."),
        Rename(r"layernorm\.mlp\.fc2\.", "layernorm.W_up."),
        *deepseek_v32.Model.rules,
    )

    def layer(self, args: Any, index: int) -> DecoderLayer:
        layer = super().layer(args, index)
        gated = ("input_layernorm", "post_attention_layernorm") if args.has_experts(index) else ("input_layernorm",)
        for name in gated:
            layer[name] = GatedNorm(args.hidden_size, args.gated_norm_rank, args.rms_norm_eps)
        return layer
