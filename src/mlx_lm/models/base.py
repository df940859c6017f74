"""The causal language model that every family fills in: embedding, layers, final norm, head.

A family says which layers it has and which multipliers; everything else (states, chunking, batches, tied heads) is
here. The model does not know how it is scheduled, sampled or stored.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import mlx.core as mx
from mlx import nn

from ..errors import ConfigError
from ..nn import DecoderLayer, Embedding, Linear, RMSNorm, UnitRMSNorm
from ..nn.fuse import LayerRunner
from ..nn.interleaved import interleave_weights, prefer_large_pages
from ..nn.parameters import flat_parameters
from ..nn.underway import Underway
from ..state import PLAIN_KV, KVOptions, LayerState, State, StateSpec, dtype_name
from .config import BaseModelArgs, BiasArgs, DecoderArgs, LlamaArgs
from .weights import COMMON_RULES, LAST_RULES, TEXT_TOWER_RULES, Drop, DropLayers, Rule, Weights, apply_rules

__all__ = [
    "Backbone", "BaseModelArgs", "BiasArgs", "Cache", "CausalLM", "DecoderArgs", "LlamaArgs", "ModelNames",
    "NormedBackbone", "PassingBackbone", "PassingLayer", "flag", "layer_state", "state_dtype",
]  # fmt: skip

Cache = Sequence[LayerState] | None
"""One entry for each layer; None computes from scratch and keeps nothing."""


@dataclass(frozen=True)
class ModelNames:
    """Parameter names of a model's parts."""

    backbone: str = "model"
    embed: str = "embed_tokens"
    layers: str = "layers"
    norm: str = "norm"
    head: str = "lm_head"


def layer_state(cache: Sequence[LayerState] | None, index: int) -> LayerState:
    """What layer `index` gets of a cache, which may be None."""
    return None if cache is None else cache[index]


def flag(args: Any, value: bool | str) -> bool:
    """What a family fixes, or the name of the config's field that says it; False where there is no such field."""
    return bool(getattr(args, value, False)) if isinstance(value, str) else value


class Backbone(nn.Module):
    """Token ids (B, L) -> normalized hidden states (B, L, D). A family overrides `embedded` or `through`."""

    def __init__(self, model: "CausalLM", args: Any):
        super().__init__()
        names = model.names
        self._names = names
        self._embed_scale = model.embed_scale(args)
        self._runner = LayerRunner()
        self[names.embed] = Embedding(args.vocab_size, args.hidden_size)
        self[names.layers] = [model.layer(args, i) for i in range(args.num_hidden_layers)]
        self[names.norm] = model.final_norm(args)

    def __call__(
        self, inputs: mx.array, cache: Sequence[LayerState] | None = None, input_embeddings: mx.array | None = None
    ) -> mx.array:
        return self.through(self.embedded(inputs, input_embeddings), cache, inputs)

    def embedded(self, inputs: mx.array, input_embeddings: mx.array | None) -> mx.array:
        """What the first layer reads (B, L, D)."""
        h = self[self._names.embed](inputs) if input_embeddings is None else input_embeddings
        return h if self._embed_scale == 1.0 else h * mx.array(self._embed_scale, h.dtype)

    def through(self, h: mx.array, cache: Cache, inputs: mx.array) -> mx.array:
        """Normalized hidden states (B, L, D) of the last layer, from what the first reads."""
        return self._runner(self[self._names.layers], self[self._names.norm], h, cache)

    def in_parts(
        self, inputs: mx.array, cache: Sequence[LayerState], input_embeddings: mx.array | None = None
    ) -> Underway:
        """A call that goes through the layers some at a time."""
        layers, norm = self[self._names.layers], self[self._names.norm]
        return Underway(self._runner, layers, norm, self.embedded(inputs, input_embeddings), cache)


class NormedBackbone(Backbone):
    """Tokens' embeddings have a norm, with a weight or without."""

    weighted: ClassVar[bool] = True

    def __init__(self, model: "CausalLM", args: Any):
        super().__init__(model, args)
        eps = args.rms_norm_eps
        self.embed_norm = RMSNorm(args.hidden_size, eps) if self.weighted else UnitRMSNorm(eps)

    def embedded(self, inputs: mx.array, input_embeddings: mx.array | None) -> mx.array:
        h = super().embedded(inputs, input_embeddings)
        return self.embed_norm(h) if input_embeddings is None else h


class PassingBackbone(Backbone):
    """Each layer's `pass_on(h, state, passed)` gives h and what the next layer gets as `passed`."""

    def through(self, h: mx.array, cache: Cache, inputs: mx.array) -> mx.array:
        h, passed = self.begin(h, inputs)
        for i, layer in enumerate(self.chain()):
            h, passed = layer.pass_on(h, layer_state(cache, i), passed)
        return self.end(h, passed)

    def begin(self, h: mx.array, inputs: mx.array) -> tuple[mx.array, Any]:
        """What the first layer gets, from embeddings (B, L, D) of ids (B, L)."""
        return h, None

    def end(self, h: mx.array, passed: Any) -> mx.array:
        """Normalized hidden states (B, L, D), from what the last layer gave."""
        return self[self._names.norm](h)

    def chain(self) -> list[Any]:
        """The layers in order."""
        return self[self._names.layers]


class PassingLayer(DecoderLayer):
    """A layer with norms before both branches, whose mixer has a `pass_on` of the same kind."""

    def pass_on(self, x: mx.array, state: LayerState, passed: Any) -> tuple[mx.array, Any]:
        h, passed = self.self_attn.pass_on(self.input_layernorm(x), state, passed)
        x = x + h
        return x + self._feed(self.post_attention_layernorm(x)), passed


class HeadBias(nn.Module):
    """What is left of an output head that shares the embedding's weights."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.bias = mx.zeros((vocab_size,))


class CausalLM(nn.Module):
    """A family's `Model` derives from this and overrides `layer`, and what differs from the plain form.

    `model(ids (B, L), cache)` gives logits (B, L, V). `cache` has one entry for each layer: a state that holds all
    rows, or a list with one state for each row; None computes from scratch and keeps nothing.
    """

    names: ClassVar[ModelNames] = ModelNames()
    rules: ClassVar[tuple[Rule, ...]] = ()
    backbone_type: ClassVar[type[Any]] = Backbone
    head_bias: ClassVar[bool | str] = False  # of the output head; or the field of the config that says so
    scaled_embedding: ClassVar[bool | str] = False  # by the root of its size; or the field of the config that says so
    next_token_layers: ClassVar[bool] = False  # checkpoints have layers after the last: next-token prediction heads

    def __init__(self, args: Any):
        super().__init__()
        self.args = args
        self.model_type = args.model_type
        self.kv_dtype: str | None = None
        self._logit_scale = self.logit_scale(args)
        self._logit_softcap = self.logit_softcap(args)
        self[self.names.backbone] = self.backbone_type(self, args)
        if args.tie_word_embeddings:
            if flag(args, self.head_bias):
                self[self.names.head] = HeadBias(args.vocab_size)
        else:
            self[self.names.head] = Linear(args.hidden_size, args.vocab_size, bias=flag(args, self.head_bias))

    # What a family overrides.

    def layer(self, args: Any, index: int) -> nn.Module:
        """Layer `index`."""
        raise ConfigError(f"{type(args).__module__} defines no layers.")

    @classmethod
    def complete(cls, config: Mapping[str, Any], weights: Weights, tokenizer: Callable[[], Any]) -> Weights:
        """A checkpoint's tensors, with those that have to be made from its tokenizer; `tokenizer` reads it."""
        return weights

    def final_norm(self, args: Any) -> nn.Module:
        return RMSNorm(args.hidden_size, args.rms_norm_eps)

    def embed_scale(self, args: Any) -> float:
        if flag(args, self.scaled_embedding):
            return args.hidden_size**0.5
        return getattr(args, "embedding_multiplier", None) or 1.0

    def logit_scale(self, args: Any) -> float:
        return getattr(args, "logit_scale", 1.0) / (getattr(args, "logits_scaling", None) or 1.0)

    def logit_softcap(self, args: Any) -> float | None:
        return getattr(args, "final_logit_softcapping", None) or None

    def quant_predicate(self, path: str, module: nn.Module) -> bool | dict[str, Any]:
        """Whether (or how) a layer is quantized by convert; families pin routers and other small, sharp layers."""
        return True

    def weight_rules(self) -> tuple[Rule, ...]:
        """All rules, in order."""
        kept = "(?!bias)" if flag(self.args, self.head_bias) else ""
        tied = (Drop(rf"^{self.names.head}\.{kept}"),) if self.args.tie_word_embeddings else ()
        extra = (DropLayers(self.args.num_hidden_layers),) if self.next_token_layers else ()
        return (*TEXT_TOWER_RULES, *COMMON_RULES, *self.rules, *tied, *extra, *LAST_RULES)

    # What is the same for all.

    def hidden(
        self, inputs: mx.array, cache: Sequence[LayerState] | None = None, input_embeddings: mx.array | None = None
    ) -> mx.array:
        """Final hidden states (B, L, D), normalized."""
        return self[self.names.backbone](inputs, cache, input_embeddings)

    def hidden_in_parts(
        self, inputs: mx.array, cache: Sequence[LayerState], input_embeddings: mx.array | None = None
    ) -> Underway:
        """`hidden`, some layers at a time, of a model that `goes_in_parts`."""
        return self[self.names.backbone].in_parts(inputs, cache, input_embeddings)

    @property
    def goes_in_parts(self) -> bool:
        """Whether its layers are simply called in turn."""
        kind = type(self[self.names.backbone])
        return all(getattr(kind, name, None) is getattr(Backbone, name) for name in ("__call__", "through"))

    def logits(self, hidden: mx.array) -> mx.array:
        """Logits (..., V) from final hidden states (..., D)."""
        if self.args.tie_word_embeddings:
            logits = self[self.names.backbone][self.names.embed].as_linear(hidden)
            if self.names.head in self:
                logits = logits + self[self.names.head].bias
        else:
            logits = self[self.names.head](hidden)
        if self._logit_scale != 1.0:
            logits = logits * self._logit_scale
        if self._logit_softcap is not None:
            logits = self._logit_softcap * mx.tanh(logits / self._logit_softcap)
        return logits

    def __call__(
        self, inputs: mx.array, cache: Sequence[LayerState] | None = None, input_embeddings: mx.array | None = None
    ) -> mx.array:
        return self.logits(self.hidden(inputs, cache, input_embeddings))

    @property
    def layers(self) -> list[nn.Module]:
        return self[self.names.backbone][self.names.layers]

    @property
    def context_length(self) -> int | None:
        """Positions that the model's config allows, or None when it sets no limit."""
        return getattr(self.args, "max_position_embeddings", None)

    def state_specs(self) -> list[StateSpec]:
        """What each layer keeps for a sequence."""
        return [layer.state_spec() for layer in self.layers]

    def make_cache(self, options: KVOptions = PLAIN_KV) -> list[State]:
        """Fresh states for one sequence."""
        if options.dtype is None and self.kv_dtype is not None:
            options = replace(options, dtype=self.kv_dtype)
        return [spec.create(options) for spec in self.state_specs()]

    def interleave_head(self) -> None:
        """Regroups the output head, and with a tied one the embedding, for the native kernels."""
        tied = self.names.head not in self or not hasattr(self[self.names.head], "weight")
        head = self[self.names.backbone][self.names.embed] if tied else self[self.names.head]
        interleave_weights(head)
        prefer_large_pages([head])

    def compute_in(self, dtype: mx.Dtype, kv_dtype: mx.Dtype | None = None) -> None:
        """Computes in `dtype` whatever the weights are stored as, and keeps plain keys and values in `kv_dtype`."""
        self[self.names.backbone][self.names.embed].output_dtype = dtype_name(dtype)
        self.kv_dtype = None if kv_dtype is None else dtype_name(kv_dtype)

    def sanitize(self, weights: Weights) -> Weights:
        """A checkpoint's tensors under this model's parameter names; idempotent."""
        return apply_rules(self.weight_rules(), weights)


def state_dtype(model: nn.Module) -> mx.Dtype:
    """The dtype that keys and values have: that of the embedding's output."""
    for name, value in flat_parameters(model):
        if "embed" in name and mx.issubdtype(value.dtype, mx.floating):
            return value.dtype
    return mx.float32
