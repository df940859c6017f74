"""IQuest-Coder Loop: Llama's layers twice; the second time near tokens, mixed with what the first time saw of all.

Source: https://huggingface.co/IQuestLab/IQuest-Coder-V1-40B-Loop-Instruct.
"""

from typing import Any

import mlx.core as mx
from mlx import nn

from ..kernels import KVView
from ..nn import Attention
from ..state import KVSpec, LayerState, ListSpec, StateSpec, attend_states, offsets, part
from .parts import Backbone, Cache, CausalLM, DenseModel, LlamaArgs, PassingLayer, Rename, layer_state


class ModelArgs(LlamaArgs):
    max_position_embeddings: int = 131072
    rope_theta: float = 500000.0
    loop_num: int = 2
    loop_window_size: int = 64


class HeadGate(nn.Module):
    """A sigmoid for each head's query: (B, H, L, D) -> (B, H, L, 1)."""

    def __init__(self, num_heads: int, head_dim: int):
        super().__init__()
        self.weight, self.bias = mx.zeros((num_heads, head_dim)), mx.zeros((num_heads,))

    def __call__(self, queries: mx.array) -> mx.array:
        return mx.sigmoid(queries @ self.weight[:, :, None] + self.bias[:, None, None])


class LoopAttention(Attention):
    """Full attention in the first loop, whose keys and values later loops read beside their own near ones."""

    def add(self, args: Any, index: int) -> None:
        self._loops, self._near = args.loop_num, args.loop_window_size

    def state_spec(self) -> StateSpec:
        o = self._options
        near = KVSpec(o.num_kv_heads, o.head_dim, o.head_dim, self._near)
        return ListSpec((super().state_spec(), *[near] * (self._loops - 1)))

    def pass_on(
        self, x: mx.array, state: LayerState, passed: tuple[tuple[KVView, ...] | None, nn.Module]
    ) -> tuple[mx.array, tuple[KVView, ...]]:
        """x (B, L, D) -> the same, and what the first loop saw; `passed` has None for that in the first loop."""
        first, gate = passed
        queries, keys, values, _ = self._project(x)
        position = offsets(state)
        queries, keys = self._place(queries, keys, position)
        views = attend_states(state, keys, values, self._near if first else None)
        out = self._attend(queries, views, position)
        if first is not None:
            share = gate(queries).astype(out.dtype)
            out = share * self._attend(queries, first, position) + (1 - share) * out
        return self[self.out_name](out.transpose(0, 2, 1, 3).flatten(2)), first or views


class LoopBackbone(Backbone):
    def __init__(self, model: CausalLM, args: Any):
        super().__init__(model, args)
        self._loops = args.loop_num
        self.gate_projections = [HeadGate(args.heads[0], args.heads[2]) for _ in range(args.num_hidden_layers)]

    def through(self, h: mx.array, cache: Cache, inputs: mx.array) -> mx.array:
        layers = self[self._names.layers]
        first: list[Any] = [None] * len(layers)
        for loop in range(self._loops):
            for i, layer in enumerate(layers):
                state = part(layer_state(cache, i), loop)
                h, first[i] = layer.pass_on(h, state, (first[i], self.gate_projections[i]))
        return self[self._names.norm](h)


class Model(DenseModel):
    backbone_type = LoopBackbone
    layer_type = PassingLayer
    attention_type = LoopAttention
    rules = (Rename(r"\.gate_projections\.(\d+)\.gate_proj\.", r".gate_projections.\1."),)
