"""Hunyuan as first published, dense or with experts: layers in groups, of which the first has keys and values for all.

Sources: https://arxiv.org/abs/2411.02265, https://huggingface.co/tencent/Tencent-Hunyuan-Large.
"""

from typing import Any

import mlx.core as mx
from mlx import nn

from .. import kernels
from ..errors import ConfigError
from ..kernels import KVView
from ..nn import GatedMLP, Routing, SwitchGLU
from ..state import LayerState, NoSpec, StateSpec, attend_states, offsets
from . import hunyuan_v1_dense, hunyuan_v1_moe
from .base import PassingBackbone, PassingLayer
from .config import check_numbers

_Seen = tuple[tuple[KVView, ...], int | mx.array]


class ModelArgs(hunyuan_v1_moe.ModelArgs):
    fixed = dict.fromkeys(("group_limited_greedy", "mamba", "position_embedding_xdrope", "use_mla"), (False,))
    aliases = {"attention_head_dim": "head_dim"}
    moe_intermediate_size: int | list[int] | None = None
    moe_layer_num_skipped: int = 0
    num_shared_expert: int | list[int] = 1
    use_mixed_mlp_moe: bool = False
    use_qk_norm: bool = False
    use_cla: bool = False
    cla_share_factor: int = 1
    mlp_bias: bool = False
    norm_type: str = "hf_rms"
    use_rotary_pos_emb: bool = True
    # What published configs list for variants that they do not use.
    kv_lora_rank: int | None = None
    q_lora_rank: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm_type not in ("hf_rms", "rms", "fused") or not self.use_rotary_pos_emb or self.cla_share_factor < 1:
            raise ConfigError("config.json: this norm_type, use_rotary_pos_emb or cla_share_factor is not supported.")
        for name in ("moe_intermediate_size", "num_shared_expert"):
            if isinstance(getattr(self, name), list):
                check_numbers(self, name)

    def at(self, name: str, index: int) -> int:
        """A number that is one for all layers, or in a list."""
        value = getattr(self, name)
        return value[index] if isinstance(value, list) else value

    def reads(self, index: int) -> bool:
        """Whether layer `index` reads the keys and values of the layer that starts its group."""
        return self.use_cla and index % self.cla_share_factor != 0


class GroupAttention(hunyuan_v1_dense.RotatedNorms):
    """Keys are kept without their norm's weight, which differs in a group: queries take it instead."""

    def add(self, args: Any, index: int) -> None:
        self._eps, self._reads = args.rms_norm_eps, args.reads(index)
        for name in ("k_proj", "v_proj") if self._reads else ():
            del self[name]

    def state_spec(self) -> StateSpec:
        return NoSpec() if self._reads else super().state_spec()

    def pass_on(self, x: mx.array, state: LayerState, seen: _Seen | None) -> tuple[mx.array, _Seen]:
        """x (B, L, D) -> the same, and what the layers of the group see."""
        o, normed = self._options, "query_layernorm" in self
        if seen is None or not self._reads:
            position = offsets(state)
            keys, values = (self._split(self[name](x)) for name in ("k_proj", "v_proj"))
            keys = keys if o.rope is None else o.rope(keys, position)
            keys = kernels.rms_norm(keys, None, self._eps) if normed else keys
            seen = attend_states(state, keys, values, o.window), position
        views, position = seen
        queries = self._split(self.q_proj(x))
        queries = queries if o.rope is None else o.rope(queries, position)
        if normed:
            queries = self.query_layernorm(queries) * self.key_layernorm.weight
        out = self._attend(queries, views, position).transpose(0, 2, 1, 3).flatten(2)
        return self[self.out_name](out), seen

    def _split(self, x: mx.array) -> mx.array:
        return mx.unflatten(x, -1, (-1, self._options.head_dim)).transpose(0, 2, 1, 3)


class Model(hunyuan_v1_moe.Model):
    backbone_type = PassingBackbone
    layer_type = PassingLayer
    attention_type = GroupAttention
    qk_norm = "use_qk_norm"

    def feed_forward(self, args: Any, index: int) -> nn.Module:
        width, size, count = args.hidden_size, args.intermediate_size, args.at("num_experts", index)
        if count == 1 or index < args.moe_layer_num_skipped:
            return GatedMLP(width, size, args.hidden_act, bias=args.mlp_bias)
        size, top, act = args.at("moe_intermediate_size", index) or size, args.at("moe_topk", index), args.hidden_act
        shared = GatedMLP(width, size * args.at("num_shared_expert", index), act) if args.use_mixed_mlp_moe else None
        experts = SwitchGLU(width, size, count, act=act)
        return hunyuan_v1_moe.Experts(width, count, Routing(top, normalize=top > 1), experts, shared=shared)
