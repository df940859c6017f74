"""What a parity family is: a base config and named variations of it.

A spec says which config options a family is proven on. It does not know how a checkpoint is made (`build`) nor how a
config is respelled the way published checkpoints write it (`hub`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

__all__ = ["DROP", "HIDDEN", "TINY", "VOCAB", "Family", "Shape", "merged"]

VOCAB = 32
HIDDEN = 32  # every matrix has an input width that is a multiple of 32, so all of them can be quantized in groups of 32


class _Drop:
    """Stays itself when copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Drop:
        return self


DROP = _Drop()
"""As a value in `hub`: published configs of the family do not have this key."""

TINY: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
"""The usual decoder: two layers, two query heads to a key head of width 8."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Family:
    """One model type and the variants that together use every option transformers honours for it.

    `base` and each variant are keyword arguments of the config class (nested dictionaries merge). A variant that only
    changes options shares its tensors with an earlier one and costs little more than its logits. A key with a leading
    underscore is for the generator: `_hub` (as `hub`), `_length`, `_path_dependent` (why a prompt in pieces cannot
    give the logits of the whole), and `_attention` (the implementation, where the eager one is wrong).

    - `hub` replaces or drops keys in the published spelling; `respell` rewrites it whole. A `modern` family was
      published with transformers 5 rope settings.
    - `published` repairs a state dict that transformers saves otherwise than it was published; `extra` (variant ->
      name -> shape) adds tensors that published checkpoints have and transformers ignores.
    - `conditional`: the text part of a multimodal model. `inert` lists variants expected to equal another one.
    - `gain` (pattern -> factor) spreads some tensors wider; tensors matching `mxfp4` take values that format can hold;
      `choices` (pattern -> n) fills rows of integer tables with different numbers below n.
    """

    model_type: str
    base: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    hub: Mapping[str, Any] = field(default_factory=dict)
    respell: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    extra: Mapping[str, Mapping[str, Shape]] = field(default_factory=dict)
    inert: tuple[str, ...] = ()
    length: int = 24
    name: str = ""
    gain: Mapping[str, float] = field(default_factory=dict)
    mxfp4: tuple[str, ...] = ()
    choices: Mapping[str, int] = field(default_factory=dict)
    modern: bool = False
    conditional: bool = False
    published: Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]] | None = None

    @property
    def directory(self) -> str:
        return self.name or self.model_type


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` on top; dictionaries merge, except rope settings, which replace."""
    result = deepcopy(dict(base))
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping) and "rope" not in key:
            result[key] = merged(result[key], value)
        elif value is DROP:
            result.pop(key, None)
        else:
            result[key] = deepcopy(value)
    return {key: value for key, value in result.items() if value is not DROP}
