"""Nanbeige 4.2: Llama whose layers run several times, each time with keys and values of their own.

Source: https://arxiv.org/abs/2607.22083.
"""

from typing import Any

import mlx.core as mx

from ..state import ListSpec, StateSpec, part
from . import llama
from .base import Backbone, Cache, CausalLM, LlamaArgs, layer_state


class ModelArgs(LlamaArgs):
    fixed = dict.fromkeys((  # variants that no published checkpoint has
        "enable_depth_attention", "enable_double_loop_split", "loop_share_kv", "use_depth_attention", "use_loop_split",
        "use_mhc", "use_ngram",
    ), (False,))  # fmt: skip
    num_loops: int = 1
    skip_loop_final_norm: bool = False


class LoopedBackbone(Backbone):
    """The norm stands after every loop, or only after the last."""

    def __init__(self, model: CausalLM, args: Any):
        super().__init__(model, args)
        self._loops, self._norm_each = args.num_loops, not args.skip_loop_final_norm

    def through(self, h: mx.array, cache: Cache, inputs: mx.array) -> mx.array:
        for loop in range(self._loops):
            for i, layer in enumerate(self[self._names.layers]):
                h = layer(h, part(layer_state(cache, i), loop))
            if self._norm_each or loop == self._loops - 1:
                h = self[self._names.norm](h)
        return h


class Model(llama.Model):
    backbone_type = LoopedBackbone

    def state_specs(self) -> list[StateSpec]:
        """Each loop of a layer has a state of its own."""
        return [ListSpec((spec,) * self.args.num_loops) for spec in super().state_specs()]
