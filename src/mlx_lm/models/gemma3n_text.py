"""Gemma 3n: four streams of which one is computed (AltUp), low-rank residuals, sparse feed-forwards.

Sources: https://ai.google.dev/gemma/docs/gemma-3n, AltUp https://arxiv.org/abs/2301.13310, LAuReL
https://arxiv.org/abs/2411.07501.
"""

from statistics import NormalDist
from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import Linear
from ..nn.altup import AltUp, Laurel, SparseMLP
from .parts import CausalLM, TwoRopeArgs, refuse
from .per_layer import PerLayer, PerLayerArgs, PerLayerInputs, PerLayerModel, Shared


class ModelArgs(PerLayerArgs, TwoRopeArgs):
    per_layer = dict.fromkeys(("intermediate_size", "activation_sparsity_pattern"), ())
    intermediate_size: int | list[int] = 16384  # type: ignore[assignment, reportIncompatibleVariableOverride]
    max_position_embeddings: int = 32768
    rope_theta: float = 1000000.0
    rope_local_base_freq: float | None = 10000.0
    sliding_window_pattern: int | None = 5
    final_logit_softcapping: float | None = 30.0
    hidden_size_per_layer_input: int = 256  # type: ignore[assignment, reportIncompatibleVariableOverride]
    num_kv_shared_layers: int = 15
    altup_active_idx: int = 0
    altup_correct_scale: bool = True
    altup_num_inputs: int = 4
    laurel_rank: int = 64
    activation_sparsity_pattern: float | list[float] | None = None

    def __post_init__(self) -> None:
        layers = self.num_hidden_layers
        super().__post_init__()
        share = self.activation_sparsity_pattern
        if share is None:
            share = [0.95 if i < 10 < layers else 0.0 for i in range(layers)]
        shares: list[float] = share if isinstance(share, list) else [share] * layers
        self.activation_sparsity_pattern = shares
        refuse(not all(0 <= share < 1 for share in shares), "activation_sparsity_pattern must be from 0 to below 1")
        possible = 0 <= self.altup_active_idx < self.altup_num_inputs
        refuse(not possible, f"altup_active_idx={self.altup_active_idx} is not an input")

    def layer_width(self, index: int) -> int:
        return super(ModelArgs, self.at(index)).layer_width(index)


class Layer(PerLayer):
    """Gets and gives all streams (B, L, S, D)."""

    def add(self, args: Any, index: int) -> None:
        super().add(args, index)
        self._active, self._rescale = args.altup_active_idx, args.altup_correct_scale
        width, eps = args.hidden_size, args.rms_norm_eps
        self.altup = AltUp(width, args.altup_num_inputs, active=args.altup_active_idx, eps=eps)
        self.laurel = Laurel(width, args.laurel_rank, eps)

    def __call__(
        self, x: mx.array, state: Any = None, extra: mx.array | None = None, shared: Shared | None = None
    ) -> mx.array:
        assert extra is not None
        streams = self.altup.predict(x)
        active = streams[:, :, self._active]
        normed = self.input_layernorm(active)
        h = active + self.post_attention_layernorm(self.self_attn(normed, state, shared))
        h = (h + self.laurel(normed)) * 2**-0.5
        h = h + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(h)))
        streams = self.altup.correct(streams, h)
        first = streams[:, :, self._active]
        if self._rescale:
            first = first * self.altup.correct_output_scale
        first = self.own_input(first, extra)
        return mx.concatenate([streams[:, :, :1], streams[:, :, 1:] + first[:, :, None]], axis=2)


class Streams(PerLayerInputs):
    """Makes the streams from the embeddings, and hidden states from their mean; all have one magnitude."""

    def __init__(self, model: CausalLM, args: Any):
        super().__init__(model, args)
        width, others = args.hidden_size, range(1, args.altup_num_inputs)
        self.altup_projections = [Linear(width, width, bias=False) for _ in others]
        self.altup_unembed_projections = [Linear(width, width, bias=False) for _ in others]

    def widen(self, h: mx.array) -> mx.array:
        return mx.stack([h, *(_as_large(p(h), h) for p in self.altup_projections)], axis=2)

    def narrow(self, h: mx.array) -> mx.array:
        first = h[:, :, 0]
        others = [_as_large(p(h[:, :, i]), first) for i, p in enumerate(self.altup_unembed_projections, 1)]
        return mx.stack([first, *others]).mean(axis=0)


def _as_large(x: mx.array, model: mx.array) -> mx.array:
    own = mx.sqrt(mx.maximum((x * x).mean(axis=-1, keepdims=True), 1e-5))
    return x * mx.sqrt((model * model).mean(axis=-1, keepdims=True)) / own


class Model(PerLayerModel):
    layer_type = Layer
    backbone_type = Streams

    def feed_forward(self, args: Any, index: int) -> nn.Module | None:
        share = args.activation_sparsity_pattern[index]
        if not share:
            return super().feed_forward(args, index)
        mlp = SparseMLP(args.hidden_size, args.layer_width(index), args.hidden_act)
        mlp.deviations = NormalDist().inv_cdf(share)
        return mlp
