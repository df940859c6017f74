"""Gear: Gemma 3 with short convolutions of keys and values in place of attention in some layers.

Source: llama.cpp's converter and graph of GearForCausalLM, https://github.com/ggml-org/llama.cpp.
"""

from dataclasses import field, replace
from functools import partial
from typing import Any

import mlx.core as mx
from mlx import nn

from .. import kernels
from ..errors import ConfigError
from ..nn import SANDWICH_NORM, CausalConv, LayerNames, Linear, RMSNorm
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
        kinds = flat.get("layer_types")
        if not isinstance(kinds, list):
            raise ConfigError("config.json: 'gear' needs layer_types.")
        refuse(flat.get("attn_logit_softcapping"), "attn_logit_softcapping is not supported for model type 'gear'")
        flat["mixes_locally"] = [kind == "conv_mixer" for kind in kinds]
        flat["layer_types"] = ["sliding_attention" if kind == "conv_mixer" else kind for kind in kinds]
        return flat

    def __post_init__(self) -> None:
        self.query_pre_attn_scalar = self.query_pre_attn_scalar or self.head_dim or 1
        super().__post_init__()
        refuse(self.conv_L_cache < 2, f"conv_L_cache must be at least 2, not {self.conv_L_cache}")


class LocalMixer(nn.Module):
    """out(sigmoid(q * conv(k)) * conv(v)), feature by feature; a key head serves several query heads."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        heads, kv_heads, size = args.heads
        self._share, self._size = heads // kv_heads, size
        self.q_proj = Linear(args.hidden_size, heads * size, bias=False)
        self.k_proj, self.v_proj = (Linear(args.hidden_size, kv_heads * size, bias=False) for _ in range(2))
        self.o_proj = Linear(heads * size, args.hidden_size, bias=False)
        norm, conv = partial(RMSNorm, size, args.rms_norm_eps, offset=1.0), partial(CausalConv, bias=False)
        self.q_norm, self.k_norm = norm(), norm()
        self.key_conv, self.value_conv = (conv(kv_heads * size, args.conv_L_cache) for _ in range(2))

    def state_spec(self) -> StateSpec:
        """What the layer keeps for a sequence: the last keys and values."""
        channels, kernel, _ = self.key_conv.weight.shape
        return RecurrentSpec((ArraySlot((kernel - 1, 2 * channels)),))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        queries, keys = (
            norm(mx.unflatten(projection(x), -1, (-1, self._size)))
            for norm, projection in ((self.q_norm, self.q_proj), (self.k_norm, self.k_proj))
        )
        both = mx.concatenate([keys.flatten(2), self.v_proj(x)], axis=-1)
        weight = mx.concatenate([self.key_conv.weight, self.value_conv.weight], axis=0)
        both, tail = kernels.causal_conv(both, weight, None, gather_slot(state, 0))
        scatter_slots(state, [tail], x.shape[1])
        keys, values = (
            mx.repeat(mx.unflatten(a, -1, (-1, self._size)), self._share, axis=2) for a in mx.split(both, 2, axis=-1)
        )
        return self.o_proj((mx.sigmoid(queries * keys) * values).flatten(2))


class Model(gemma3_text.Model):
    def names_at(self, args: Any, index: int) -> LayerNames:
        return replace(SANDWICH_NORM, mixer="local_mixer") if args.mixes_locally[index] else SANDWICH_NORM

    def mixer(self, args: Any, index: int) -> nn.Module | None:
        return LocalMixer(args) if args.mixes_locally[index] else super().mixer(args, index)
