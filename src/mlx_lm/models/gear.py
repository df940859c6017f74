"""Gear: Gemma 3 with short convolutions of keys and values in place of attention in some layers.

Source: llama.cpp's converter and graph of GearForCausalLM, https://github.com/ggml-org/llama.cpp.
"""

from dataclasses import field, replace
from typing import Any

import mlx.core as mx

from .. import kernels
from ..nn import SANDWICH_NORM, Attention, CausalConv, LayerNames
from ..state import ArraySlot, LayerState, RecurrentSpec, StateSpec, gather_slot, scatter_slots
from . import gemma3_text
from .config import refuse


class ModelArgs(gemma3_text.ModelArgs):
    query_pre_attn_scalar: float = 0.0  # 0: head_dim
    sliding_window: int | None = 512
    conv_L_cache: int = 3
    mixes_locally: list[bool] = field(default_factory=list)

    @classmethod
    def prepared(cls, flat: dict[str, Any]) -> dict[str, Any]:
        """`layer_types` also has "conv_mixer"."""
        kinds: Any = flat.get("layer_types")
        refuse(not isinstance(kinds, list), "'gear' needs layer_types")
        refuse(flat.get("attn_logit_softcapping"), "attn_logit_softcapping is not supported for model type 'gear'")
        flat["mixes_locally"] = [kind == "conv_mixer" for kind in kinds]
        flat["layer_types"] = ["sliding_attention" if kind == "conv_mixer" else kind for kind in kinds]
        return flat

    def __post_init__(self) -> None:
        self.query_pre_attn_scalar = self.query_pre_attn_scalar or self.head_dim or 1
        super().__post_init__()
        refuse(self.conv_L_cache < 2, f"conv_L_cache must be at least 2, not {self.conv_L_cache}")


class LocalMixer(Attention):
    """out(sigmoid(q * conv(k)) * conv(v)), feature by feature; a key head serves several query heads."""

    def add(self, args: Any, index: int) -> None:
        channels = args.heads[1] * args.heads[2]
        self.key_conv, self.value_conv = (CausalConv(channels, args.conv_L_cache, bias=False) for _ in range(2))

    def state_spec(self) -> StateSpec:
        """What the layer keeps for a sequence: the last keys and values."""
        channels, kernel, _ = self.key_conv.weight.shape
        return RecurrentSpec((ArraySlot((kernel - 1, 2 * channels)),))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        o = self._options
        queries, keys, values = (a.swapaxes(1, 2) for a in self._project(x)[:3])  # (B, L, H, D)
        both = mx.concatenate([keys.flatten(2), values.flatten(2)], axis=-1)
        weight = mx.concatenate([self.key_conv.weight, self.value_conv.weight], axis=0)
        both, tail = kernels.causal_conv(both, weight, None, gather_slot(state, 0))
        scatter_slots(state, [tail], x.shape[1])
        both = mx.unflatten(both, -1, (2, o.num_kv_heads, o.head_dim))
        keys, values = mx.repeat(both, o.num_heads // o.num_kv_heads, axis=3).moveaxis(2, 0)
        return self.o_proj((mx.sigmoid(queries * keys) * values).flatten(2))


class Model(gemma3_text.Model):
    def names_at(self, args: Any, index: int) -> LayerNames:
        return replace(SANDWICH_NORM, mixer="local_mixer") if args.mixes_locally[index] else SANDWICH_NORM

    def attention_type_at(self, args: Any, index: int) -> type[Attention]:
        return LocalMixer if args.mixes_locally[index] else Attention
