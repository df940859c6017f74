"""A.X-K1: DeepSeek-V3 with a norm after the experts. Source: https://huggingface.co/skt/A.X-K1."""

from typing import Any

from ..nn import LayerNames
from . import deepseek_v3
from .weights import Drop, Rename, Rule, no_correction


class ModelArgs(deepseek_v3.ModelArgs):
    fixed = {}  # one router, whatever a config calls it
    max_position_embeddings: int = 32768
    n_routed_experts: int | None = 192
    first_k_dense_replace: int = 1


class Model(deepseek_v3.Model):
    def weight_rules(self) -> tuple[Rule, ...]:
        # Published checkpoints have the norm in dense layers too, which do not use it.
        dense = "|".join(str(i) for i in range(self.args.num_hidden_layers) if not self.args.has_experts(i))
        unused = (Drop(rf"(^|\.)layers\.({dense})\.post_mlp_layernorm\."),) if dense else ()
        renamed = Rename(r"\.mlp\.post_mlp_layernorm\.", ".post_mlp_layernorm.")
        return (renamed, *unused, *super().weight_rules(), no_correction)

    def names_at(self, args: Any, index: int) -> LayerNames:
        return LayerNames(post_feed_forward="post_mlp_layernorm" if args.has_experts(index) else None)
