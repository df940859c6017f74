"""A.X-K1: DeepSeek-V3 with a norm after the experts. Source: https://huggingface.co/skt/A.X-K1."""

from typing import Any

import mlx.core as mx

from ..nn import LayerNames
from . import deepseek_v3, glm4_moe_lite
from .weights import Drop, Rename, Rule, Weights


class ModelArgs(glm4_moe_lite.ModelArgs):
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 32768
    q_lora_rank: int | None = 1536
    qk_nope_head_dim: int = 128
    v_head_dim: int = 128
    n_routed_experts: int | None = 192
    num_experts_per_tok: int | None = 8
    moe_intermediate_size: int = 2048
    n_group: int | None = 8
    topk_group: int | None = 4
    routed_scaling_factor: float = 2.5

    def check_routing(self) -> None:
        """The family has one router, whatever a config calls it."""


class NoCorrection:
    """Gives routers that were published without a selection bias one of zeros."""

    def __call__(self, weights: Weights) -> Weights:
        result = dict(weights)
        for name in [k for k in weights if k.endswith(".mlp.gate.weight")]:
            bias = name.removesuffix("weight") + "e_score_correction_bias"
            if bias not in result:
                result[bias] = mx.zeros((weights[name].shape[0],))
        return result


class Model(deepseek_v3.Model):
    def weight_rules(self) -> tuple[Rule, ...]:
        # Published checkpoints have the norm in dense layers too, which do not use it.
        dense = "|".join(str(i) for i in range(self.args.num_hidden_layers) if not self.args.has_experts(i))
        unused = (Drop(rf"(^|\.)layers\.({dense})\.post_mlp_layernorm\."),) if dense else ()
        renamed = Rename(r"\.mlp\.post_mlp_layernorm\.", ".post_mlp_layernorm.")
        return (renamed, *unused, *super().weight_rules(), NoCorrection())

    def names_at(self, args: Any, index: int) -> LayerNames:
        return LayerNames(post_feed_forward="post_mlp_layernorm" if args.has_experts(index) else None)
