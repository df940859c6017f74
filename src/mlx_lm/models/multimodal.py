"""The text tower of a checkpoint that also has towers for images or sound.

The text model sits under `language_model`, as in checkpoints; tensors of the other towers are dropped. This module
knows no family.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

import mlx.core as mx
from mlx import nn

from ..nn.underway import Underway
from ..state import PLAIN_KV, KVOptions, LayerState, State, StateSpec
from .base import CausalLM
from .config import BaseModelArgs, refuse
from .weights import Drop, Rename, Rule

__all__ = ["TextTower", "named_text_tower", "text_tower"]


class TextTower(CausalLM):
    """Delegates to `language_model`, a model of `text_model`."""

    text_model: ClassVar[type[CausalLM]]
    other_towers: ClassVar[str] = (
        r"^(model\.)?(vision_\w+|visual|audio(_\w+)?|multi_modal_projector|multimodal_projector|mm_projector|"
        r"patch_merge\w+|embed_vision|embed_audio)\."
    )

    def __init__(self, args: Any):
        nn.Module.__init__(self)
        self.args = args
        self.model_type = args.model_type
        self.language_model = self.text_model(args)

    def weight_rules(self) -> tuple[Rule, ...]:
        text = self.language_model.weight_rules()  # these strip `language_model.`
        return (Drop(self.other_towers), *text, Rename("^", "language_model."))

    def quant_predicate(self, path: str, module: nn.Module) -> bool | dict[str, Any]:
        return self.language_model.quant_predicate(path.removeprefix("language_model."), module)

    def hidden(
        self, inputs: mx.array, cache: Sequence[LayerState] | None = None, input_embeddings: mx.array | None = None
    ) -> mx.array:
        return self.language_model.hidden(inputs, cache, input_embeddings)

    def hidden_in_parts(
        self, inputs: mx.array, cache: Sequence[LayerState], input_embeddings: mx.array | None = None
    ) -> Underway:
        return self.language_model.hidden_in_parts(inputs, cache, input_embeddings)

    @property
    def goes_in_parts(self) -> bool:
        return self.language_model.goes_in_parts

    def logits(self, hidden: mx.array) -> mx.array:
        return self.language_model.logits(hidden)

    def make_cache(self, options: KVOptions = PLAIN_KV) -> list[State]:
        return self.language_model.make_cache(options)

    def compute_in(self, dtype: mx.Dtype, kv_dtype: mx.Dtype | None = None) -> None:
        self.language_model.compute_in(dtype, kv_dtype)

    def state_specs(self) -> list[StateSpec]:
        return self.language_model.state_specs()

    @property
    def layers(self) -> list[nn.Module]:
        return self.language_model.layers

    @property
    def context_length(self) -> int | None:
        return self.language_model.context_length


def text_tower(module: str, family: ModuleType) -> tuple[type[TextTower], Any]:
    """`Model` and `ModelArgs` of `module`, whose checkpoints have a text model of `family`."""
    return type("Model", (TextTower,), {"text_model": family.Model, "__module__": module}), family.ModelArgs


def named_text_tower(module: str, usual: str, **texts: ModuleType) -> tuple[type[TextTower], Any]:
    """As `text_tower`; the text model is the one of `texts` that `text_config` names, `usual` where it does not."""

    class Model(TextTower):
        def __init__(self, args: Any):
            self.text_model = next(m.Model for m in texts.values() if type(args) is m.ModelArgs)  # type: ignore[misc]
            super().__init__(args)

    class ModelArgs(BaseModelArgs):
        @classmethod
        def from_dict(cls, config: Mapping[str, Any]) -> Any:
            nested = config.get("text_config")
            kind = (nested.get("model_type") if isinstance(nested, Mapping) else None) or usual
            refuse(kind not in texts, f"text_config.model_type {kind!r} is not one of {sorted(texts)}")
            return texts[kind].ModelArgs.from_dict(config)

    Model.__module__ = ModelArgs.__module__ = module
    return Model, ModelArgs
