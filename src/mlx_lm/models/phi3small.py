"""Phi 3 small: layers that see near blocks and every n-th far one, limited GeGLU, muP multipliers.

Sources: https://arxiv.org/abs/2404.14219, https://huggingface.co/microsoft/Phi-3-small-8k-instruct.
"""

import math
from typing import Any

import mlx.core as mx
from mlx import nn

from .. import kernels
from ..kernels import KVView
from ..nn import MLP, AttentionOptions, BiasedAttention, Linear, RopeParameters
from .falcon import FalconAttention
from .parts import DecoderArgs, DenseModel, ModelNames, refuse

# Ids for which the published tokenizer has no token: nobody is to sample them.
_UNUSED = 100256, 100258, 100259, 100260, *range(100264, 100266), *range(100267, 100352)


class ModelArgs(DecoderArgs):
    fixed = {"hidden_act": ("gegelu",)}
    aliases = {
        "ff_intermediate_size": "intermediate_size", "rope_embedding_base": "rope_theta",
        "mup_embedding_multiplier": "embedding_multiplier", "mup_width_multiplier": "logits_scaling",
    }  # fmt: skip
    tie_word_embeddings: bool = True
    rope_theta: float = 1000000.0
    layer_norm_eps: float = 1e-5
    gegelu_limit: float | None = 20.0
    mup_use_scaling: bool = True
    mup_attn_multiplier: float = 1.0
    embedding_multiplier: float | None = 10.0
    logits_scaling: float | None = 8.0
    rope_position_scale: float = 1.0
    dense_attention_every_n_layers: int | None = 2
    blocksparse_homo_head_pattern: bool = False
    blocksparse_block_size: int = 64
    blocksparse_num_local_blocks: int = 16
    blocksparse_vert_stride: int = 8
    original_max_position_embeddings: int | None = None

    def __post_init__(self) -> None:
        self.hidden_act = "quick_gelu"
        super().__post_init__()
        refuse(self.rope_scaling and self.rope_position_scale != 1, "rope_scaling beside rope_position_scale")

    def attention_scale(self, index: int) -> float | None:
        return self.mup_attn_multiplier / self.heads[2] if self.mup_use_scaling else None

    def layer_rope(self, index: int) -> RopeParameters:
        if self.rope_position_scale == 1:
            return self.rope_parameters()
        return RopeParameters("linear", self.rope_theta, scaling={"factor": self.rope_position_scale})

    def is_dense(self, index: int) -> bool:
        every = self.dense_attention_every_n_layers
        return bool(every) and (index + 1) % every == 0


class StridedAttention(FalconAttention, BiasedAttention):
    """A query sees the blocks just before, and every `stride`-th; which ones differs by head."""

    def __init__(self, options: AttentionOptions, args: ModelArgs):
        super().__init__(options)
        self._size, self._local = args.blocksparse_block_size, args.blocksparse_num_local_blocks
        self._stride = args.blocksparse_vert_stride
        self._step = 0 if args.blocksparse_homo_head_pattern else max(1, self._stride // options.num_heads)

    def rule(self, query: mx.array, key: mx.array, seen: mx.array | None, view: KVView) -> mx.array:
        query, key, head = query // self._size, key // self._size, mx.arange(self._options.num_heads)[:, None, None]
        mask = (query - key < self._local) | ((key + head * self._step + 1) % self._stride == 0)
        return (mask if seen is None else mask & seen)[None]


class LimitedGLU(MLP):
    """Gate and up are neighbours in one projection, limited; up has 1 added."""

    def __init__(self, hidden_size: int, intermediate_size: int, act: str, limit: float | None):
        super().__init__(hidden_size, intermediate_size, act, bias=True)
        self.up_proj = Linear(hidden_size, 2 * intermediate_size, bias=True)
        self.limit = math.inf if limit is None else limit

    def __call__(self, x: mx.array) -> mx.array:
        both = mx.unflatten(self.up_proj(x), -1, (-1, 2))
        gate, up = mx.minimum(both[..., 0], self.limit), mx.clip(both[..., 1], -self.limit, self.limit)
        return self.down_proj(kernels.gated_activation(gate, up + 1, self.act))


class Model(DenseModel):
    names = ModelNames(norm="final_layernorm")
    attention = {"fused": True, "bias": True, "out_bias": True}

    def mixer(self, args: Any, index: int) -> nn.Module:
        options: AttentionOptions = self.attention_options(args, index)
        return FalconAttention(options) if args.is_dense(index) else StridedAttention(options, args)

    def feed_forward(self, args: Any, index: int) -> nn.Module:
        return LimitedGLU(args.hidden_size, args.intermediate_size, args.hidden_act, args.gegelu_limit)

    def logits(self, hidden: mx.array) -> mx.array:
        logits = super().logits(hidden)
        if logits.shape[-1] > _UNUSED[-1]:
            logits[..., mx.array(_UNUSED)] = -mx.inf
        return logits
