"""Reading an untrusted `config.json` into a typed, checked `ModelArgs`.

Two spellings are read: what hub checkpoints publish (`rope_theta`, `rope_scaling`, `torch_dtype`, flat) and what
transformers 5 writes (`rope_parameters`, `dtype`, nested text configs). A key that changes the computation is either
a field of the family's `ModelArgs`, or has its neutral value, or is refused by name.
"""

import copy
import dataclasses
import inspect
import math
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..errors import ConfigError
from ..kernels import ACTIVATIONS
from ..nn import RopeParameters
from .json_types import is_huge, matches, shown, whole
from .spellings import (
    ABOVE_ZERO,
    COUNTS,
    LARGEST,
    NEUTRAL,
    OPTIONS,
    OTHER_NAMES,
    POSITIVE,
    flatten_config,
    rope_from_v5,
)

__all__ = [
    "EXPERT_COUNTS", "BaseModelArgs", "BiasArgs", "DecoderArgs", "GroupedArgs", "LanguageArgs", "LlamaArgs",
    "block_options", "check_kinds", "flatten_config", "refuse", "rope_parameters",
]  # fmt: skip

EXPERT_COUNTS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
"""The names that configs have for the number of experts."""

_Options = typing.TypeVar("_Options", bound=Any)

_MOST_LAYERS = 2000  # far above any model; every layer is made before its weights are looked for


@typing.dataclass_transform(kw_only_default=True, field_specifiers=(field,))
@dataclass(kw_only=True)
class BaseModelArgs:
    """The base of every family's `ModelArgs`: fields are config keys, types are checked on reading.

    Subclasses are dataclasses without saying so; their fields are given by keyword.
    """

    model_type: str = ""
    aliases: ClassVar[dict[str, str]] = {}  # other spelling -> field, read where the field's own name is absent
    nested: ClassVar[dict[str, dict[str, str]]] = {}  # key of an object -> names in it -> fields, empty for their own
    # What a family's fields must be, beside their types; a field that a config leaves out, or has as null, passes.
    fixed: ClassVar[dict[str, tuple[Any, ...]]] = {}  # key, of a field or not -> the values that it supports
    positive: ClassVar[tuple[str, ...]] = ()  # numbers, or lists of numbers, above 0
    multiples: ClassVar[dict[str, str | int]] = {}  # field or property -> number, or field, that divides it
    layer_sizes: ClassVar[tuple[str, ...]] = ()  # what `per_layer_config` may give a layer of its own
    per_layer: ClassVar[dict[str, Collection[Any]]] = {}  # list -> what it may say of a layer, empty for anything

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if len(cls.__bases__) > 1:
            _redeclare(cls)
        made = {name: spec for name, spec in vars(cls).items() if isinstance(spec, dataclasses.Field)}
        dataclass(kw_only=True)(cls)
        for name, spec in made.items():
            if spec.default_factory is not dataclasses.MISSING:
                setattr(cls, name, spec)  # read again where another program's class has the decorator as well

    @classmethod
    def prepared(cls, flat: dict[str, Any]) -> dict[str, Any]:
        """What a family makes of a flattened config before its fields are read."""
        return flat

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> typing.Self:
        """Reads a config, in either spelling.

        Raises:
            ConfigError: a field is missing, of the wrong type, contradictory, or not supported by this family.
        """
        flat = cls.prepared(flatten_config(config))
        for key, names in cls.nested.items():
            inner = flat.get(key) or {}
            refuse(not isinstance(inner, dict), f"{key} must be an object, not {inner!r}")
            flat |= {names.get(name, name): value for name, value in inner.items() if not names or name in names}
        fields = {spec.name for spec in dataclasses.fields(cls)}
        usual = {other: name for other, name in OTHER_NAMES.items() if name in fields and other not in fields}
        for other, name in (usual | cls.aliases).items():
            if other in flat:
                value = flat.pop(other)
                flat[name] = value if flat.get(name) is None else flat[name]
        hints = typing.get_type_hints(cls)
        values: dict[str, Any] = {}
        for spec in dataclasses.fields(cls):
            required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
            value = flat.get(spec.name)
            if value is None:
                if required and not matches(None, hints[spec.name]):
                    raise ConfigError(f"config.json has no {spec.name!r}, which {cls.__module__} needs.")
                if not required and (spec.name not in flat or not matches(None, hints[spec.name])):
                    continue
            elif not matches(value, hints[spec.name]):
                raise ConfigError(f"config.json: {spec.name} must be {shown(hints[spec.name])}, not {value!r}.")
            elif isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"config.json: {spec.name} must be finite, not {value!r}.")
            elif spec.name in cls.positive and min(value if isinstance(value, list) else [value], default=1) <= 0:
                raise ConfigError(f"config.json: {spec.name} must be positive, not {value!r}.")
            elif spec.name in POSITIVE | COUNTS and isinstance(value, int | float):
                least = 1 if spec.name in POSITIVE else 0
                largest = LARGEST.get(spec.name, 2**31 - 1)
                if value < least or value > largest:  # type: ignore[operator]
                    raise ConfigError(f"config.json: {spec.name} must be from {least} to {largest}, not {value!r}.")
            values[spec.name] = whole(value, hints[spec.name])
            if is_huge(values[spec.name], hints[spec.name]):
                raise ConfigError(f"config.json: {spec.name} must be below 2**31, not {value!r}.")
        family = flat.get("model_type", cls.__module__)
        for key, known in (NEUTRAL | cls.fixed).items():
            read = key in hints and key not in cls.fixed
            if flat.get(key) not in (None, *known) and not read and not _all_full(key, flat[key]):
                raise ConfigError(f"config.json: {key}={flat[key]!r} is not supported for model type {family!r}.")
        args = cls(**values)
        args._check_relations()
        return args

    def _check_relations(self) -> None:
        for name, unit in self.multiples.items():
            number, part = getattr(self, name), getattr(self, unit) if isinstance(unit, str) else unit
            wrong = None not in (number, part) and (part < 1 or number % part)
            refuse(wrong, f"{name}={number} is not a multiple of {unit}={part}")
        for name, known in self.per_layer.items():
            if isinstance(getattr(self, name), list):
                check_kinds(self, name, known)
        for index, entry in (getattr(self, "per_layer_config", None) or {}).items():
            known = isinstance(entry, dict) and entry.keys() <= set(self.layer_sizes)
            known = known and all(isinstance(size, int) and size > 0 for size in entry.values())
            refuse(not known, f"per_layer_config has the unknown entry {index}: {entry!r}")
        count = next((getattr(self, name) for name in EXPERT_COUNTS if getattr(self, name, None)), None)
        if isinstance(count, int):
            chosen = getattr(self, "num_experts_per_tok", 1)
            refuse(not 1 <= (chosen or 0) <= count, f"num_experts_per_tok={chosen} of {count} experts is not possible")

    def at(self, index: int) -> typing.Self:
        """The config with the numbers of layer `index`, from those lists of `per_layer` and from `per_layer_config`."""
        own = copy.copy(self)
        numbers = {name: getattr(self, name) for name, known in self.per_layer.items() if not known}
        lists = {name: entries for name, entries in numbers.items() if isinstance(entries, list)}
        vars(own).update({name: entries[index] for name, entries in lists.items()})
        vars(own).update((getattr(self, "per_layer_config", None) or {}).get(str(index), {}))
        return own


def _redeclare(cls: type) -> None:
    """Gives `cls` each field as the first class in its order of bases declares it.

    A dataclass alone would take a field that two bases have from the first base, even where that one only inherits it.
    """
    own, kinds = inspect.get_annotations(cls), {}
    for base in (b for b in reversed(cls.__mro__[1:]) if dataclasses.is_dataclass(b)):
        declared = inspect.get_annotations(base)
        kinds |= {spec.name: (declared[spec.name], spec) for spec in dataclasses.fields(base) if spec.name in declared}
    for name, (kind, spec) in kinds.items():
        if name not in own:
            own[name] = kind
            setattr(cls, name, field(default=spec.default, default_factory=spec.default_factory))
    cls.__annotations__ = own


def _all_full(key: str, value: Any) -> bool:
    return key == "layer_types" and isinstance(value, list) and set(value) <= {"full_attention"}


class LanguageArgs(BaseModelArgs):
    """What every language model's config has, whatever its layers are."""

    hidden_size: int
    num_hidden_layers: int
    vocab_size: int
    tie_word_embeddings: bool = False


class DecoderArgs(LanguageArgs):
    """What nearly every decoder's config has. A family overrides defaults by redeclaring a field."""

    num_attention_heads: int
    intermediate_size: int = 0
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 2048
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_by_layer_type: dict[str, Any] | None = None
    feed_forward_kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse")  # what `mlp_layer_types` may say

    feed_forward_ratio: ClassVar[int] = 0  # to `hidden_size`, where a config says no `intermediate_size`

    def __post_init__(self) -> None:
        self.hidden_act = getattr(self, "hidden_activation", None) or self.hidden_act
        if self.feed_forward_ratio and not self.intermediate_size:
            self.intermediate_size = self.feed_forward_ratio * self.hidden_size
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"config.json: {name} must be at least 1, not {getattr(self, name)}.")
        if self.num_hidden_layers > _MOST_LAYERS:
            raise ConfigError(f"config.json: num_hidden_layers={self.num_hidden_layers} is over {_MOST_LAYERS}.")
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.num_key_value_heads < 1 or self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"config.json: num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}."
            )
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads:
                raise ConfigError(
                    f"config.json: hidden_size={self.hidden_size} is not a multiple of "
                    f"num_attention_heads={self.num_attention_heads}, and head_dim is not given."
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.hidden_act not in ACTIVATIONS:
            raise ConfigError(
                f"config.json: hidden_act={self.hidden_act!r} is not known; known: {sorted(ACTIVATIONS)}."
            )
        for name in ABOVE_ZERO:
            value = getattr(self, name, 1)
            refuse(not value > 0, f"{name} must be positive, not {value!r}")
        listed = getattr(self, "no_rope_layers", None)
        count = len(listed or ())
        refuse(count not in (0, self.num_hidden_layers), f"no_rope_layers has {count} entries, not one a layer")
        refuse(getattr(self, "logits_scaling", 1) == 0, "logits_scaling must not be 0")
        if getattr(self, "mlp_layer_types", None) is not None:
            check_kinds(self, "mlp_layer_types", self.feed_forward_kinds)

    @property
    def heads(self) -> tuple[int, int, int]:
        """Query heads, key-value heads and head size."""
        assert self.num_key_value_heads is not None and self.head_dim is not None
        return self.num_attention_heads, self.num_key_value_heads, self.head_dim

    def layer_heads(self, index: int) -> tuple[int, int, int]:
        """`heads` of layer `index`."""
        return self.heads

    def layer_width(self, index: int) -> int:
        """Hidden features of the feed-forward of layer `index`."""
        return self.intermediate_size

    def window(self, index: int) -> int | None:
        """Positions that a query of layer `index` sees, itself included; None for all."""
        return None

    def has_experts(self, index: int) -> bool:
        """Whether layer `index` has experts: all have that no key excepts, in a family that counts experts."""
        if not any(getattr(self, name, None) for name in EXPERT_COUNTS):
            return False
        kinds = getattr(self, "mlp_layer_types", None)
        if kinds is not None:
            return kinds[index] == "sparse"
        first, every = getattr(self, "first_k_dense_replace", 0), getattr(self, "moe_layer_freq", None) or 1
        if isinstance(every, list):  # 1 for each layer that has
            return index >= first and any(every[index : index + 1])
        step, dense = getattr(self, "decoder_sparse_step", 1), getattr(self, "mlp_only_layers", None) or ()
        return index >= first and index % every == 0 and (index + 1) % step == 0 and index not in dense

    def attention_scale(self, index: int) -> float | None:
        """Factor on the scores of layer `index`; None is the usual one."""
        scalar = getattr(self, "query_pre_attn_scalar", None)
        return getattr(self, "attention_multiplier", None) if scalar is None else scalar**-0.5

    def is_linear(self, index: int) -> bool:
        """Whether `layer_types` has "linear_attention" for layer `index`."""
        kinds = getattr(self, "layer_types", None)
        return kinds is not None and kinds[index] == "linear_attention"

    def has_rope(self, index: int) -> bool:
        """Whether layer `index` has positions: `no_rope_layers` has 1 and `layer_rope_theta` a base where one has."""
        listed = getattr(self, "no_rope_layers", None) or getattr(self, "layer_rope_theta", None)
        if listed is None:
            return (index + 1) % max(getattr(self, "no_rope_layer_interval", index + 2), 1) != 0
        return listed[index] > 0

    def layer_rope(self, index: int) -> RopeParameters:
        """The rotary embedding of layer `index`."""
        return self.rope_parameters()

    def rope_parameters(self, layer_type: str | None = None) -> RopeParameters:
        """The rotary embedding, for families that have several, of one layer type."""
        theta, partial, scaling = (self.rope_theta, getattr(self, "partial_rotary_factor", 1.0), self.rope_scaling)
        if turned := getattr(self, "rotary_dim", None):
            partial = turned / self.heads[2]
        if layer_type is not None and self.rope_by_layer_type is not None:
            if layer_type not in self.rope_by_layer_type:
                raise ConfigError(f"config.json: rope_parameters has no entry for layer type {layer_type!r}.")
            own = rope_from_v5(self.rope_by_layer_type[layer_type])
            theta, partial = (own.get("rope_theta", theta), own.get("partial_rotary_factor", partial))
            scaling = own["rope_scaling"]
        return rope_parameters(theta, partial, scaling, self.max_position_embeddings, self)


class BiasArgs(DecoderArgs):
    """Queries, keys, values and the attention's output may have biases."""

    attention_bias: bool = False


class LlamaArgs(BiasArgs):
    """Feed-forwards may have biases, too."""

    mlp_bias: bool = False


class GroupedArgs(DecoderArgs):
    """Experts may stand in groups, of which the best take part; see `grouped_routing`."""

    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    n_group: int | None = 1
    topk_group: int | None = 1


def refuse(condition: Any, message: str) -> None:
    """Raises ConfigError with `message` when `condition` holds."""
    if condition:
        raise ConfigError(f"config.json: {message}.")


def check_kinds(args: Any, name: str, known: Collection[Any]) -> None:
    """Field `name` has one of `known`, or anything where that is empty, for each layer, or ConfigError."""
    kinds = getattr(args, name)
    wrong = len(kinds) != args.num_hidden_layers or (known and not set(kinds) <= set(known))
    entry = f"one of {sorted(known)}" if known else "an entry"
    refuse(wrong, f"{name} must have {entry} for each layer, not {kinds!r}")


def block_options(kind: type[_Options], args: Any, **changes: Any) -> _Options:
    """A block's options from any of the names that configs have for them; `changes` are what a family has otherwise."""
    options = [spec.name for spec in dataclasses.fields(kind) if spec.name in OPTIONS]
    found = {option: [getattr(args, name) for name in OPTIONS[option] if hasattr(args, name)] for option in options}
    return kind(**{option: values[0] for option, values in found.items() if values} | changes)


def rope_parameters(
    theta: float, partial: float, scaling: Mapping[str, Any] | None, max_position: int, args: Any = None
) -> RopeParameters:
    """`RopeParameters` from config values; `scaling` is `rope_scaling` in any of its spellings."""
    numbers = dict(scaling or {})
    kind = str(numbers.pop("rope_type", None) or numbers.get("type") or "default")
    numbers.pop("type", None)
    trained = getattr(args, "original_max_position_embeddings", None)
    if trained and "original_max_position_embeddings" not in numbers:
        numbers["original_max_position_embeddings"] = trained
    if not theta or theta <= 0:
        raise ConfigError(f"config.json: rope_theta must be positive, not {theta!r}.")
    return RopeParameters(kind, float(theta), float(partial), max_position, numbers)
