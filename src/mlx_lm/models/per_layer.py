"""Layers with an input of their own beside the hidden states, and layers that read another layer's keys and values.

The embedding of each token for each layer is a row of one wide table plus a projection of the token's usual
embedding. The last layers keep no keys and values: they read those of the last layer of their kind that does.
This module knows no family.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import mlx.core as mx

from .. import kernels
from ..kernels import KVView
from ..nn import SANDWICH_NORM, Attention, DecoderLayer, Embedding, Linear, RMSNorm
from ..state import LayerState, NoSpec, StateSpec, attend_states, offsets
from .parts import Backbone, Cache, CausalLM, DenseModel, Drop, Rule, SlidingArgs, layer_state, refuse

__all__ = [
    "PerLayer", "PerLayerArgs", "PerLayerInputs", "PerLayerModel", "ReadingAttention", "Shared", "SharingAttention",
]  # fmt: skip

Seen = tuple[tuple[KVView, ...], int | mx.array]
"""The views of a layer that keeps keys and values, and the first query's position."""

Shared = dict[str, Seen]
"""By kind of layer, of the last one that keeps keys and values."""


class ReadingAttention(Attention, ABC):
    """Keeps keys and values, or `reads` those that a layer before it has kept."""

    reads = False

    def state_spec(self) -> StateSpec:
        return NoSpec() if self.reads else super().state_spec()

    def pass_on(self, x: mx.array, state: LayerState, seen: Seen | None) -> tuple[mx.array, Seen]:
        """x (B, L, D) -> the same, and what the layers after this one may read."""
        if seen is None or not self.reads:
            position = offsets(state)
            queries, keys, values = self._kept(x, position)
            seen = attend_states(state, keys, values, self._options.window), position
        else:
            queries = self._asked(x, seen[1])
        out = self._attend(queries, *seen).transpose(0, 2, 1, 3).flatten(2)
        return self[self.out_name](out), seen

    @abstractmethod
    def _kept(self, x: mx.array, position: int | mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Queries, and what is kept: keys and values (B, H, L, D)."""

    @abstractmethod
    def _asked(self, x: mx.array, position: int | mx.array) -> mx.array:
        """Queries (B, H, L, D) alone."""

    def _split(self, x: mx.array) -> mx.array:
        return mx.unflatten(x, -1, (-1, self._options.head_dim)).transpose(0, 2, 1, 3)

    def _turned(self, x: mx.array, position: int | mx.array) -> mx.array:
        return self._place(x, x, position)[0]


class SharingAttention(ReadingAttention):
    """Attention with normalized values, which hands its keys and values on to layers of its kind, or only reads.

    Where values are keys, there is no value projection; values are the keys before norm and rope.
    """

    def add(self, args: Any, index: int) -> None:
        self._kind, self.reads, self._eps = args.layer_type(index), args.reads(index), args.rms_norm_eps
        names = ("k_proj", "v_proj", self.k_norm_name) if self.reads else ()
        for name in names or (("v_proj",) if args.values_are_keys(index) else ()):
            del self[name]

    def __call__(self, x: mx.array, state: LayerState = None, shared: Shared | None = None) -> mx.array:
        shared = {} if shared is None else shared
        out, shared[self._kind] = self.pass_on(x, state, shared.get(self._kind))
        return out

    def _kept(self, x: mx.array, position: int | mx.array) -> tuple[mx.array, mx.array, mx.array]:
        keys = self._split(self.k_proj(x))
        values = kernels.rms_norm(self._split(self.v_proj(x)) if "v_proj" in self else keys, None, self._eps)
        return self._asked(x, position), self._turned(self[self.k_norm_name](keys), position), values

    def _asked(self, x: mx.array, position: int | mx.array) -> mx.array:
        return self._turned(self[self.q_norm_name](self._split(self.q_proj(x))), position)


class PerLayerArgs(SlidingArgs):
    """What both families' configs have."""

    head_dim: int | None = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    tie_word_embeddings: bool = True
    sliding_window: int | None = 512
    attention_bias: bool = False
    final_logit_softcapping: float | None = None
    vocab_size_per_layer_input: int = 262144
    hidden_size_per_layer_input: int | None = 256
    num_kv_shared_layers: int = 0

    def __post_init__(self) -> None:
        """Every layer that reads has one of its kind to read from, or ConfigError."""
        super().__post_init__()
        shared, kinds = self.num_kv_shared_layers, [self.layer_type(i) for i in range(self.num_hidden_layers)]
        first = len(kinds) - shared
        wrong = not 0 <= shared < len(kinds) or not set(kinds[first:]) <= set(kinds[:first])
        refuse(wrong, f"num_kv_shared_layers={shared} leaves layers with nothing to read")

    def reads(self, index: int) -> bool:
        """Whether layer `index` has no keys and values of its own."""
        return index >= self.num_hidden_layers - self.num_kv_shared_layers

    def values_are_keys(self, index: int) -> bool:
        """Whether layer `index`, which does not only read, has no value projection."""
        return False


class PerLayer(DecoderLayer):
    """Norms around attention and feed-forward; a family says where the layer's own input is read."""

    def add(self, args: Any, index: int) -> None:
        """The parts that read the layer's own input."""
        self.act, width = args.hidden_act, args.hidden_size
        if size := args.hidden_size_per_layer_input:
            self.per_layer_input_gate = Linear(width, size, bias=False)
            self.per_layer_projection = Linear(size, width, bias=False)
            self.post_per_layer_input_norm = RMSNorm(width, args.rms_norm_eps)

    def own_input(self, x: mx.array, extra: mx.array) -> mx.array:
        """What hidden states (B, L, D) make of the layer's input (B, L, P): (B, L, D)."""
        h = kernels.gated_activation(self.per_layer_input_gate(x), extra, self.act)
        return self.post_per_layer_input_norm(self.per_layer_projection(h))


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

    scaled_embedding = qk_norm = True
    layer_names = SANDWICH_NORM
    attention_type = SharingAttention
    attention: ClassVar = {"scale": 1.0}
    backbone_type = PerLayerInputs

    def weight_rules(self) -> tuple[Rule, ...]:
        return (*super().weight_rules(), drop_unread(self.args))
