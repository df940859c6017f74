"""LongCat-Flash with embeddings of the last few tokens together, found by a hash, beside each token's own.

Source: https://huggingface.co/meituan-longcat/LongCat-Flash-Lite.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import Embedding, Linear
from ..nn.conv import after_tail
from ..state import ArraySlot, LayerState, RecurrentSpec, part
from . import longcat_flash
from .parts import Backbone, CausalLM, Rename, layer_state


class ModelArgs(longcat_flash.ModelArgs):
    aliases = {
        **longcat_flash.ModelArgs.aliases,
        "oe_vocab_size_ratio": "ngram_vocab_size_ratio",
        "oe_neighbor_num": "emb_neighbor_num",
        "oe_split_num": "emb_split_num",
    }
    positive = "ngram_vocab_size_ratio", "emb_split_num"
    multiples = {"hidden_size": "emb_tables"}
    ngram_vocab_size_ratio: float = 78.0
    emb_neighbor_num: int = 4
    emb_split_num: int = 4
    eos_token_id: int | None = 2

    @property
    def emb_tables(self) -> int:
        """Of n-grams of all lengths."""
        return self.emb_split_num * (self.emb_neighbor_num - 1)


class NgramEmbedding(nn.Module):
    """The mean of a token's embedding and those of the 2 to n tokens that end with it.

    `split` tables for each n keep an n-gram at its number to the base of the vocabulary, modulo the table's size, an
    odd number of the table's own. Nothing before the end of a text counts.
    """

    def __init__(self, args: ModelArgs):
        super().__init__()
        self._reach, self._split, self._end = args.emb_neighbor_num - 1, args.emb_split_num, args.eos_token_id
        self._base, count = args.vocab_size, args.emb_tables
        first = int(args.ngram_vocab_size_ratio * args.vocab_size) + 1
        self._sizes = [first + 2 * i for i in range(count)]
        self.embedders = [Embedding(size, args.hidden_size // count) for size in self._sizes]
        self.post_projs = [Linear(args.hidden_size // count, args.hidden_size, bias=False) for _ in range(count)]

    def __call__(self, h: mx.array, ids: mx.array, state: LayerState) -> mx.array:
        """From the usual embeddings h (B, L, D) of ids (B, L); the state has the ids before them, 0 where none is."""
        context, length = after_tail(ids.astype(mx.int32), self._reach, state).astype(mx.int64), ids.shape[1]
        number, open_ = [], mx.array(True)
        for back in range(self._reach + 1):  # ids of the token itself, of the one before, ...
            seen = context[:, self._reach - back : self._reach - back + length]
            open_ = open_ if back == 0 else open_ & (seen != self._end)
            number.append(mx.where(open_, seen, 0))
        for i, (size, table, projection) in enumerate(zip(self._sizes, self.embedders, self.post_projs, strict=True)):
            hashed, power = number[0], 1
            for digit in number[1 : i // self._split + 2]:
                power = power * self._base % size
                hashed = (hashed + digit * power) % size
            h = h + projection(table(hashed)).astype(h.dtype)
        return h / (1 + len(self._sizes))


class NgramBackbone(Backbone):
    def __init__(self, model: CausalLM, args: Any):
        super().__init__(model, args)
        self.ngram_embeddings = NgramEmbedding(args)
        # The first layer also keeps the last tokens' ids.
        self[self._names.layers][0].keep(RecurrentSpec((ArraySlot((args.emb_neighbor_num - 1,), mx.int32),)))

    def __call__(
        self, inputs: mx.array, cache: Sequence[LayerState] | None = None, input_embeddings: mx.array | None = None
    ) -> mx.array:
        if input_embeddings is None:
            state = part(layer_state(cache, 0), 2)
            input_embeddings = self.ngram_embeddings(self[self._names.embed](inputs), inputs, state)
        return super().__call__(inputs, cache, input_embeddings)


class Model(longcat_flash.Model):
    backbone_type = NgramBackbone
    rules = (Rename(r"\.ngram_embeddings\.word_embeddings\.", ".embed_tokens."), *longcat_flash.Model.rules)
