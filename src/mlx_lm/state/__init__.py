"""What a sequence keeps: full, rotating, quantized, latent and recurrent states behind one protocol."""

from .arrays import ArraysCache, ArraySlot, CacheList, ListSpec, NoSpec, RecurrentSpec
from .base import PLAIN_KV, KVOptions, State, StateSpec, dtype_name
from .batch import LayerState, attend_states, gather_slot, offsets, part, scatter_slots
from .kv import AttentionState, KVCache, KVSpec, QuantizedKVCache, RotatingKVCache
from .store import load_states, save_states

__all__ = [
    "PLAIN_KV",
    "ArraySlot",
    "ArraysCache",
    "AttentionState",
    "CacheList",
    "KVCache",
    "KVOptions",
    "KVSpec",
    "LayerState",
    "ListSpec",
    "NoSpec",
    "QuantizedKVCache",
    "RecurrentSpec",
    "RotatingKVCache",
    "State",
    "StateSpec",
    "attend_states",
    "dtype_name",
    "gather_slot",
    "load_states",
    "offsets",
    "part",
    "save_states",
    "scatter_slots",
]
