"""Baichuan M1: keys and values are mixed with those of the token before, head by head. https://arxiv.org/abs/2502.12671."""

from dataclasses import field

import mlx.core as mx

from ..errors import ConfigError
from ..nn import Attention, AttentionOptions
from ..state import (
    ArraySlot,
    LayerState,
    ListSpec,
    RecurrentSpec,
    StateSpec,
    attend_states,
    gather_slot,
    offsets,
    part,
    scatter_slots,
)
from .bailing_moe import unit_head
from .config import DecoderArgs, refuse
from .dense import DenseModel


class ModelArgs(DecoderArgs):
    fixed = {"conv_window": (2,)}
    max_position_embeddings: int = 32768
    sliding_window: int = 8192
    sliding_window_layers: list[int] = field(default_factory=list)
    num_swa_attention_heads: int | None = None
    num_swa_key_value_heads: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(self.sliding_window < 1, f"sliding_window must be at least 1, not {self.sliding_window}")
        for index in range(self.num_hidden_layers):
            heads, kv_heads, _ = self.layer_heads(index)
            if min(heads, kv_heads) < 1 or heads % kv_heads or self.hidden_size % heads:
                raise ConfigError(f"config.json: num_swa_attention_heads={heads} and {kv_heads} key heads do not fit.")

    def slides(self, index: int) -> bool:
        return index in self.sliding_window_layers

    def window(self, index: int) -> int | None:
        return self.sliding_window if self.slides(index) else None

    def layer_heads(self, index: int) -> tuple[int, int, int]:
        heads, kv_heads, _ = self.heads
        if self.slides(index):
            heads, kv_heads = self.num_swa_attention_heads or heads, self.num_swa_key_value_heads or kv_heads
        return heads, kv_heads, self.hidden_size // max(heads, 1)


class MixedKeysAttention(Attention):
    qkv_name = "W_pack"

    def __init__(self, options: AttentionOptions):
        super().__init__(options)
        self.conv_k = mx.zeros((1, 1, options.num_kv_heads, 1, 2))
        self.conv_v = mx.zeros((1, 1, options.num_kv_heads, 1, 2))

    def state_spec(self) -> StateSpec:
        """The last token's key and value before the mix, and keys and values."""
        slot = ArraySlot((self._options.num_kv_heads, 1, self._options.head_dim))
        return ListSpec((RecurrentSpec((slot, slot)), super().state_spec()))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        queries, keys, values, _ = self._project(x)
        last, kept = part(state, 0), part(state, 1)
        mixed = (
            self._mixed(keys, self.conv_k, gather_slot(last, 0)),
            self._mixed(values, self.conv_v, gather_slot(last, 1)),
        )
        scatter_slots(last, [keys[:, :, -1:], values[:, :, -1:]], x.shape[1])
        position = offsets(kept)
        queries, keys = self._place(queries, mixed[0], position)
        out = self._attend(queries, attend_states(kept, keys, mixed[1], self._options.window), position)
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
