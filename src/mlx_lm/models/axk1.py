"""A.X-K1: DeepSeek-V3 with a norm after the experts. Source: https://huggingface.co/skt/A.X-K1."""

from typing import Any

from ..nn import LayerNames
from . import deepseek_v3, glm4_moe_lite
from .weights import Drop, Rename, Rule, no_correction


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


class Model(deepseek_v3.Model):
    def weight_rules(self) -> tuple[Rule, ...]:
        # Published checkpoints have the norm in dense layers too, which do not use it.
        dense = "|".join(str(i) for i in range(self.args.num_hidden_layers) if not self.args.has_experts(i))
        unused = (Drop(rf"(^|\.)layers\.({dense})\.post_mlp_layernorm\."),) if dense else ()
        renamed = Rename(r"\.mlp\.post_mlp_layernorm\.", ".post_mlp_layernorm.")
        return (renamed, *unused, *super().weight_rules(), no_correction)

    def names_at(self, args: Any, index: int) -> LayerNames:
        return LayerNames(post_feed_forward="post_mlp_layernorm" if args.has_experts(index) else None)
