"""Layers with an input of their own beside the hidden states, and layers that read another layer's keys and values.

The embedding of each token for each layer is a row of one wide table plus a projection of the token's usual
embedding. The last layers keep no keys and values: they read those of the last layer of their kind that does.
This module knows no family.
"""

from typing import Any

import mlx.core as mx

from .. import kernels
from ..errors import ConfigError
from ..kernels import KVView
from ..nn import Attention, AttentionOptions, Embedding, Linear, RMSNorm
from ..state import LayerState, NoSpec, StateSpec, attend_states, offsets
from .base import Backbone, Cache, CausalLM, layer_state
from .dense import DenseModel
from .weights import Drop, Rule

__all__ = ["PerLayerInputs", "PerLayerModel", "Shared", "SharingAttention", "check_sharing"]

Shared = dict[str, tuple[tuple[KVView, ...], int | mx.array]]
"""By kind of layer: the views and the first query's position of the last layer that keeps keys and values."""


class SharingAttention(Attention):
    """Attention with normalized values, which hands its keys and values on, or only reads.

    Args:
        kind: layers share with their own kind only.
        reads: has no keys and values of its own.
        eps: of the values' norm, which has no weight.
        values_are_keys: has no value projection; values are the keys before norm and rope.
    """

    def __init__(self, options: AttentionOptions, *, kind: str, reads: bool, eps: float, values_are_keys: bool = False):
        super().__init__(options)
        self._kind, self._reads, self._eps = kind, reads, eps
        names = ("k_proj", "v_proj", self.k_norm_name) if reads else ("v_proj",) if values_are_keys else ()
        for name in names:
            del self[name]

    def state_spec(self) -> StateSpec:
        return NoSpec() if self._reads else super().state_spec()

    def __call__(self, x: mx.array, state: LayerState = None, shared: Shared | None = None) -> mx.array:
        shared = {} if shared is None else shared
        queries = self[self.q_norm_name](self._split(self.q_proj(x)))
        if self._reads:
            views, position = shared[self._kind]
            queries, _ = self._place(queries, queries, position)
        else:
            position = offsets(state)
            keys = self._split(self.k_proj(x))
            values = self._split(self.v_proj(x)) if "v_proj" in self else keys
            queries, keys = self._place(queries, self[self.k_norm_name](keys), position)
            views = attend_states(state, keys, kernels.rms_norm(values, None, self._eps), self._options.window)
            shared[self._kind] = views, position
        out = self._attend(queries, views, position)
        return self[self.out_name](out.transpose(0, 2, 1, 3).flatten(2))

    def _split(self, x: mx.array) -> mx.array:
        return mx.unflatten(x, -1, (-1, self._options.head_dim)).transpose(0, 2, 1, 3)


class PerLayerInputs(Backbone):
    """Calls each layer with its state, its input (B, L, P) or None, and what is shared."""

    def __init__(self, model: CausalLM, args: Any):
        super().__init__(model, args)
        size, layers = args.hidden_size_per_layer_input or 0, args.num_hidden_layers
        self._input_size = size
        if size:
            self.embed_tokens_per_layer = Embedding(args.vocab_size_per_layer_input, layers * size)
            self.per_layer_model_projection = Linear(args.hidden_size, layers * size, bias=False)
            self.per_layer_projection_norm = RMSNorm(size, args.rms_norm_eps)

    def through(self, h: mx.array, cache: Cache, inputs: mx.array) -> mx.array:
        extra = self._layer_inputs(inputs, h) if self._input_size else None
        shared: Shared = {}
        h = self.widen(h)
        for i, layer in enumerate(self[self._names.layers]):
            h = layer(h, layer_state(cache, i), None if extra is None else extra[..., i, :], shared)
        return self[self._names.norm](self.narrow(h))

    def widen(self, h: mx.array) -> mx.array:
        """What the first layer gets, from embeddings (B, L, D)."""
        return h

    def narrow(self, h: mx.array) -> mx.array:
        """Hidden states (B, L, D) from what the last layer gives."""
        return h

    def _layer_inputs(self, inputs: mx.array, h: mx.array) -> mx.array:
        """(B, L, layers, P)."""
        table = self.embed_tokens_per_layer
        known = mx.where(inputs < table.weight.shape[0], inputs, 0)
        rows = table(known).astype(h.dtype) * mx.array(self._input_size**0.5, h.dtype)
        projected = self.per_layer_model_projection(h) * mx.array(h.shape[-1] ** -0.5, h.dtype)
        projected = self.per_layer_projection_norm(mx.unflatten(projected, -1, (-1, self._input_size)))
        return (projected + mx.unflatten(rows, -1, (-1, self._input_size))) * mx.array(2**-0.5, h.dtype)


def drop_unread(args: Any) -> Rule:
    """Forgets the key and value weights that checkpoints have for layers which only read."""
    layers = "|".join(str(i) for i in range(args.num_hidden_layers) if args.reads(i))
    return Drop(rf"layers\.({layers or 'none'})\.self_attn\.(k_proj|v_proj|k_norm|v_norm)\.")


class PerLayerModel(DenseModel):
    """The model around `PerLayerInputs`."""

    scaled_embedding = True

    def weight_rules(self) -> tuple[Rule, ...]:
        return (*super().weight_rules(), drop_unread(self.args))


def check_sharing(args: Any) -> None:
    """Every layer that reads has one of its kind to read from, or ConfigError."""
    first = args.num_hidden_layers - args.num_kv_shared_layers
    kinds = [args.layer_type(i) for i in range(args.num_hidden_layers)]
    if not 0 <= args.num_kv_shared_layers < args.num_hidden_layers or not set(kinds[first:]) <= set(kinds[:first]):
        raise ConfigError(
            f"config.json: num_kv_shared_layers={args.num_kv_shared_layers} leaves layers with nothing to read."
        )
