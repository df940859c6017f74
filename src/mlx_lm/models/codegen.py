"""CodeGen: GPT-J with projections fused in four blocks. Source: https://arxiv.org/abs/2203.13474."""

import mlx.core as mx

from ..nn import Attention
from . import gptj
from .parts import ModelNames, Rename

_BLOCKS = 4  # of queries, values and keys, in this order: what one device of the training held


class ModelArgs(gptj.ModelArgs):
    multiples = {"num_attention_heads": _BLOCKS}


class BlockwiseAttention(Attention):
    out_name = "out_proj"

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array | None]:
        fused = self.qkv_proj(x).reshape(*x.shape[:2], _BLOCKS, 3, -1)
        heads = (*x.shape[:2], self._options.num_heads, -1)
        queries, values, keys = (fused[..., i, :].reshape(heads).transpose(0, 2, 1, 3) for i in range(3))
        return queries, keys, values, None


class Model(gptj.Model):
    names = ModelNames(backbone="transformer", embed="wte", layers="h", norm="ln_f")
    attention_type = BlockwiseAttention
    attention = {"fused": True}
    rules = (Rename(r"^(h|wte|ln_f)\.", r"transformer.\1."),)
