"""Baichuan M1: keys and values are mixed with those of the token before, head by head. https://arxiv.org/abs/2502.12671."""

from dataclasses import field
from typing import Any

import mlx.core as mx

from ..nn import Attention
from ..state import ArraySlot, ListSpec, RecurrentSpec, StateSpec
from ..state.batch import LayerState, attend_states, gather_slot, offsets, part, scatter_slots
from .bailing_moe import unit_head
from .config import refuse
from .dense import DenseModel, SlidingArgs


class ModelArgs(SlidingArgs):
    fixed = {"conv_window": (2,)}
    max_position_embeddings: int = 32768
    sliding_window: int | None = 8192
    sliding_window_layers: list[int] = field(default_factory=list)
    num_swa_attention_heads: int | None = None
    num_swa_key_value_heads: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for heads, kv_heads, _ in map(self.layer_heads, range(self.num_hidden_layers)):
            fits = min(heads, kv_heads) > 0 and heads % kv_heads == 0 and self.hidden_size % heads == 0
            refuse(not fits, f"num_swa_attention_heads={heads} and {kv_heads} key heads do not fit")

    def slides(self, index: int) -> bool:
        return index in self.sliding_window_layers

    def layer_heads(self, index: int) -> tuple[int, int, int]:
        heads, kv_heads, _ = self.heads
        if self.slides(index):
            heads, kv_heads = self.num_swa_attention_heads or heads, self.num_swa_key_value_heads or kv_heads
        return heads, kv_heads, self.hidden_size // max(heads, 1)


class MixedKeysAttention(Attention):
    qkv_name = "W_pack"

    def add(self, args: Any, index: int) -> None:
        self.conv_k, self.conv_v = (mx.zeros((1, 1, self._options.num_kv_heads, 1, 2)) for _ in range(2))

    def state_spec(self) -> StateSpec:
        """The last token's key and value before the mix, and keys and values."""
        slot = ArraySlot((self._options.num_kv_heads, 1, self._options.head_dim))
        return ListSpec((RecurrentSpec((slot, slot)), super().state_spec()))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        queries, keys, values, _ = self._project(x)
        last, kept = part(state, 0), part(state, 1)
        ends = [keys[:, :, -1:], values[:, :, -1:]]
        keys = self._mixed(keys, self.conv_k, gather_slot(last, 0))
        values = self._mixed(values, self.conv_v, gather_slot(last, 1))
        scatter_slots(last, ends, x.shape[1])
        position = offsets(kept)
        queries, keys = self._place(queries, keys, position)
        out = self._attend(queries, attend_states(kept, keys, values, self._options.window), position)
        return self[self.out_name](out.transpose(0, 2, 1, 3).flatten(2))

    def _mixed(self, x: mx.array, weight: mx.array, last: mx.array | None) -> mx.array:
        """x (B, H, L, D), with the tokens before by the first weight of each head."""
        last = mx.zeros_like(x[:, :, :1]) if last is None else last.astype(x.dtype)
        before = mx.concatenate([last, x[:, :, :-1]], axis=2)
        first, second = weight[0, 0][:, :, :1], weight[0, 0][:, :, 1:]  # (H, 1, 1)
        return before * first + x * second


class Model(DenseModel):
    attention_type = MixedKeysAttention
    attention = {"fused": True}
    rules = (unit_head,)
