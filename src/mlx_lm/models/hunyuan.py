"""Hunyuan as first published, dense or with experts: layers in groups, of which the first has keys and values for all.

Sources: https://arxiv.org/abs/2411.02265, https://huggingface.co/tencent/Tencent-Hunyuan-Large.
"""

from typing import Any

import mlx.core as mx
from mlx import nn

from .. import kernels
from ..nn import GatedMLP, Routing
from . import hunyuan_v1_moe
from .parts import PassingBackbone, PassingLayer, usual_routing
from .per_layer import ReadingAttention


class ModelArgs(hunyuan_v1_moe.ModelArgs):
    fixed = {
        **dict.fromkeys(("group_limited_greedy", "mamba", "position_embedding_xdrope", "use_mla"), (False,)),
        "norm_type": ("hf_rms", "rms", "fused"), "use_rotary_pos_emb": (True,),
    }  # fmt: skip
    positive = (*hunyuan_v1_moe.ModelArgs.positive, "cla_share_factor", "moe_intermediate_size", "num_shared_expert")
    per_layer = dict.fromkeys(positive, ())
    aliases = {"attention_head_dim": "head_dim"}
    moe_intermediate_size: int | list[int] | None = None
    moe_layer_num_skipped: int = 0
    num_shared_expert: int | list[int] = 1
    use_mixed_mlp_moe: bool = False
    use_qk_norm: bool = False
    use_cla: bool = False
    cla_share_factor: int = 1
    mlp_bias: bool = False
    # What published configs list for variants that they do not use.
    kv_lora_rank: int | None = None
    q_lora_rank: int | None = None

    @property
    def shared_size(self) -> int:
        """Of the feed-forward that every token visits, in the config of one layer."""
        size: Any = (self.moe_intermediate_size or self.intermediate_size, self.num_shared_expert)
        return size[0] * size[1] if self.use_mixed_mlp_moe else 0

    def reads(self, index: int) -> bool:
        """Whether layer `index` reads the keys and values of the layer that starts its group."""
        return self.use_cla and index % self.cla_share_factor != 0


class GroupAttention(ReadingAttention):
    """Keys are kept without their norm's weight, which differs in a group: queries take it instead."""

    q_norm_name, k_norm_name = "query_layernorm", "key_layernorm"

    def add(self, args: Any, index: int) -> None:
        self._eps, self.reads = args.rms_norm_eps, args.reads(index)
        for name in ("k_proj", "v_proj") if self.reads else ():
            del self[name]

    def _kept(self, x: mx.array, position: int | mx.array) -> tuple[mx.array, mx.array, mx.array]:
        keys, values = self._turned(self._split(self.k_proj(x)), position), self._split(self.v_proj(x))
        keys = kernels.rms_norm(keys, None, self._eps) if "query_layernorm" in self else keys
        return self._asked(x, position), keys, values

    def _asked(self, x: mx.array, position: int | mx.array) -> mx.array:
        queries = self._turned(self._split(self.q_proj(x)), position)
        return self.query_layernorm(queries) * self.key_layernorm.weight if "query_layernorm" in self else queries


class Model(hunyuan_v1_moe.Model):
    backbone_type = PassingBackbone
    layer_type = PassingLayer
    attention_type = GroupAttention
    qk_norm = "use_qk_norm"
    moe_options = {"shared": "shared_size"}

    def feed_forward(self, args: Any, index: int) -> nn.Module:
        own = args.at(index)
        if own.num_experts == 1 or index < args.moe_layer_num_skipped:
            return GatedMLP(args.hidden_size, args.intermediate_size, args.hidden_act, bias=args.mlp_bias)
        return self.experts(own)

    def routing(self, args: Any) -> Routing:
        return usual_routing(args, normalize=args.moe_topk > 1)
