"""Reading an untrusted `config.json` into a typed, checked `ModelArgs`.

Two spellings are read: what hub checkpoints publish (`rope_theta`, `rope_scaling`, `torch_dtype`, flat) and what
transformers 5 writes (`rope_parameters`, `dtype`, nested text configs). A key that changes the computation is either
a field of the family's `ModelArgs`, or has its neutral value, or is refused by name.
"""

import copy
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..errors import ConfigError
from ..kernels import ACTIVATIONS
from ..nn import RopeParameters

__all__ = [
    "EXPERT_COUNTS", "BaseModelArgs", "BiasArgs", "DecoderArgs", "GroupedArgs", "LanguageArgs", "LlamaArgs",
    "block_options", "check_kinds", "flatten_config", "refuse", "rope_parameters",
]  # fmt: skip

EXPERT_COUNTS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
"""The names that configs have for the number of experts."""

_Options = typing.TypeVar("_Options", bound=Any)

_MOST_LAYERS = 2000  # far above any model; every layer is made before its weights are looked for

# Keys that change the computation, with the values that mean "not used". A family that reads such a key has a field
# of that name; any other family refuses a value that is not here.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "alibi": (False, None),
    "attention_bias": (False, None),
    "attention_multiplier": (None,),
    "attention_out_bias": (False, None),
    "attn_logit_softcapping": (None, 0, 0.0),
    "attn_logit_softcap": (None, 0, 0.0),
    "clip_qkv": (None,),
    "embedding_multiplier": (1, 1.0, None),
    "final_logit_softcapping": (None, 0, 0.0),
    "first_k_dense_replace": (0, None),
    "kv_lora_rank": (None, 0),
    "layer_types": (None,),
    "logit_scale": (1, 1.0, None),
    "logits_scaling": (1, 1.0, None),
    "mlp_bias": (False, None),
    "moe_intermediate_size": (None, 0),
    "n_group": (1, None),
    "n_routed_experts": (None, 0),
    "n_shared_experts": (None, 0),
    "no_rope_layers": (None, []),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "parallel_attn": (False, None),
    "partial_rotary_factor": (1, 1.0, None),
    "q_lora_rank": (None, 0),
    "qk_layernorm": (False, None),
    "query_pre_attn_scalar": (None,),
    "residual_multiplier": (1, 1.0, None),
    "rope_interleave": (None,),
    "rope_local_base_freq": (None,),
    "rope_scaling": (None, {}),
    "routed_scaling_factor": (1, 1.0, None),
    "scale_attn_by_inverse_layer_idx": (False, None),
    "scale_depth": (None,),
    "scale_emb": (1, 1.0, None),
    "sliding_window": (None,),
    "use_bias": (False, None),
    "use_qk_norm": (False, None),
    "use_qkv_bias": (False, None),
    "use_sliding_window": (False, None),
}


# Sizes and counts: a config that gives one of these gives at least 1.
_POSITIVE = frozenset((
    "decoder_sparse_step", "full_attention_interval", "head_dim", "hidden_size", "intermediate_size",
    "max_position_embeddings", "moe_intermediate_size", "num_attention_heads", "num_experts_per_tok",
    "num_hidden_layers", "num_key_value_heads", "shared_expert_intermediate_size", "vocab_size",
    "attn_layer_period", "block_multiple_of", "conv1d_width", "conv_L_cache", "conv_kernel", "expand",
    "expert_layer_period", "kv_lora_rank", "linear_conv_kernel_dim", "linear_head_dim", "linear_key_head_dim",
    "linear_num_heads", "linear_num_key_heads", "linear_num_value_heads", "linear_value_head_dim", "lru_width",
    "mamba_d_conv", "mamba_d_ssm", "mamba_d_state", "mamba_dt_rank", "mamba_expand", "mamba_head_dim",
    "mamba_n_groups", "mamba_n_heads", "mamba_num_heads", "moe_latent_size", "moe_layer_freq",
    "moe_shared_expert_intermediate_size", "n_group", "n_groups",
    "num_heads", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "ssm_state_size",
    "state_size", "time_step_rank", "topk_group", "v_head_dim", "altup_num_inputs", "attention_chunk_size",
    "dense_intermediate_size", "floor_scale", "global_head_dim", "intermediate_size_mlp", "laurel_rank",
    "moe_num_experts", "moe_topk", "num_global_key_value_heads", "prefix_dense_intermediate_size",
    "swa_num_key_value_heads", "top_k_experts", "vocab_size_per_layer_input", "word_embed_proj_dim",
    "adapter_rank", "attention_window_size", "attn_res_block_size", "blocksparse_block_size",
    "blocksparse_num_local_blocks", "blocksparse_vert_stride", "cca_time0", "cca_time1", "ffn_dim_divisor",
    "ffn_round_up_to_multiple_of", "group_norm_size", "hc_mult", "hc_sinkhorn_iters", "index_block_size",
    "index_head_dim", "index_n_heads", "index_topk", "index_topk_blocks", "keep_window_size", "layer_group_size",
    "loop_num", "loop_window_size", "mamba_ngroups", "mamba_step", "n_mamba_heads", "n_shared_head", "num_loops",
    "num_mem_blocks", "o_groups", "o_lora_rank", "router_hidden_size", "window_size",
    "a_low_rank_dim", "decay_low_rank_dim", "gate_low_rank_dim", "v_low_rank_dim",
))  # fmt: skip

# Where 0 means that there are none.
_COUNTS = frozenset((
    "hidden_size_per_layer_input", "moe_num_shared_experts", "n_routed_experts", "n_shared_experts", "num_experts",
    "num_kv_shared_layers", "num_local_experts", "num_shared_experts", "shared_intermediate_size",
))  # fmt: skip

_ABOVE_ZERO = ("dim_model_base", "query_pre_attn_scalar")  # numbers that need not be whole

_LARGEST = {"num_hidden_layers": 4096, "num_attention_heads": 65536, "num_key_value_heads": 65536}


# Other names that several families' configs have for a field, where the family has the field and not the name.
_OTHER_NAMES: dict[str, str] = {
    "activation_function": "hidden_act", "d_model": "hidden_size", "ffn_dim": "intermediate_size",
    "hidden_activation": "hidden_act", "layer_norm_epsilon": "layer_norm_eps",
    "max_seq_len": "max_position_embeddings", "model_dim": "hidden_size",
    "n_embd": "hidden_size", "n_head": "num_attention_heads", "n_head_kv": "num_key_value_heads",
    "n_heads": "num_attention_heads", "n_inner": "intermediate_size", "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers", "n_positions": "max_position_embeddings", "num_kv_heads": "num_key_value_heads",
    "num_local_experts": "num_experts", "rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor",
    "num_layers": "num_hidden_layers", "seq_length": "max_position_embeddings",
}  # fmt: skip


# What configs call the options of blocks.
_OPTIONS: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size",),
    "num_heads": ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads", "num_attention_heads"),
    "head_dim": ("mamba_head_dim", "head_dim"),
    "groups": ("mamba_n_groups", "mamba_ngroups", "n_groups", "o_groups"),
    "state_size": ("mamba_d_state", "ssm_state_size", "state_size"),
    "rank": ("mamba_dt_rank", "time_step_rank"),
    "kernel": ("mamba_d_conv", "conv_kernel", "linear_conv_kernel_dim"),
    "bias": ("mamba_proj_bias", "use_bias", "add_bias_linear"),
    "conv_bias": ("mamba_conv_bias", "use_conv_bias"),
    "norm_groups": ("mamba_n_groups", "mamba_ngroups", "n_groups"),
    "norm_eps": ("rms_norm_eps", "layer_norm_epsilon"),
    "act": ("mamba_hidden_act", "hidden_mamba_act", "hidden_act"),
    "key_heads": ("linear_num_key_heads", "linear_num_heads"),
    "value_heads": ("linear_num_value_heads", "linear_num_heads"),
    "key_dim": ("linear_key_head_dim", "linear_head_dim"),
    "value_dim": ("linear_value_head_dim", "linear_head_dim"),
    "q_rank": ("q_lora_rank",),
    "kv_rank": ("kv_lora_rank",),
    "out_rank": ("o_lora_rank",),
    "nope_dim": ("qk_nope_head_dim",),
    "rope_dim": ("qk_rope_head_dim",),
    "lower_bound": ("kda_lower_bound", "gate_lower_bound"),
    "index_heads": ("index_n_heads",),
    "index_dim": ("index_head_dim",),
    "index_topk": ("index_topk",),
}


def flatten_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with nested text configs lifted and transformers-5 spellings turned into the published ones.

    `rope_parameters` with one entry per layer type stays, as `rope_by_layer_type`, without those that are null.
    """
    flat = dict(config)
    for nested in ("text_config", "llm_config", "language_config"):
        inner = flat.pop(nested, None)
        if isinstance(inner, Mapping):
            outer_type = flat.get("model_type")
            flat |= {k: v for k, v in inner.items() if v is not None or k not in flat}
            if outer_type is not None:
                flat["model_type"] = outer_type
    if flat.get("torch_dtype") is None and isinstance(flat.get("dtype"), str):
        flat["torch_dtype"] = flat["dtype"]
    rope = flat.pop("rope_parameters", None)
    if isinstance(rope, Mapping):
        without = bool(rope) and all(v is None for v in rope.values())  # no kind of layer has a rope
        if without or any(isinstance(v, Mapping) for v in rope.values()):
            flat["rope_by_layer_type"] = {k: dict(v) for k, v in rope.items() if isinstance(v, Mapping)}
        else:
            flat |= _rope_from_v5(rope)
    return flat


def _rope_from_v5(rope: Mapping[str, Any]) -> dict[str, Any]:
    rest = dict(rope)
    flat = {}
    for name in ("rope_theta", "partial_rotary_factor"):
        value = rest.pop(name, None)
        if value is not None:
            flat[name] = value
    kind = rest.get("rope_type", rest.get("type", "default"))
    flat["rope_scaling"] = None if kind == "default" else rest
    return flat


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
        usual = {other: name for other, name in _OTHER_NAMES.items() if name in fields and other not in fields}
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
                if required and not _matches(None, hints[spec.name]):
                    raise ConfigError(f"config.json has no {spec.name!r}, which {cls.__module__} needs.")
                if not required and (spec.name not in flat or not _matches(None, hints[spec.name])):
                    continue
            elif not _matches(value, hints[spec.name]):
                raise ConfigError(f"config.json: {spec.name} must be {_show(hints[spec.name])}, not {value!r}.")
            elif isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"config.json: {spec.name} must be finite, not {value!r}.")
            elif spec.name in cls.positive and min(value if isinstance(value, list) else [value], default=1) <= 0:
                raise ConfigError(f"config.json: {spec.name} must be positive, not {value!r}.")
            elif spec.name in _POSITIVE | _COUNTS and isinstance(value, int | float):
                least = 1 if spec.name in _POSITIVE else 0
                largest = _LARGEST.get(spec.name, 2**31 - 1)
                if value < least or value > largest:  # type: ignore[operator]
                    raise ConfigError(f"config.json: {spec.name} must be from {least} to {largest}, not {value!r}.")
            values[spec.name] = _whole(value, hints[spec.name])
            if _is_huge(values[spec.name], hints[spec.name]):
                raise ConfigError(f"config.json: {spec.name} must be below 2**31, not {value!r}.")
        family = flat.get("model_type", cls.__module__)
        for key, known in (_NEUTRAL | cls.fixed).items():
            read = key in hints and key not in cls.fixed
            if flat.get(key) not in (None, *known) and not read and not _all_full(key, flat[key]):
                raise ConfigError(f"config.json: {key}={flat[key]!r} is not supported for model type {family!r}.")
        args = cls(**values)
        args._check_relations()
        return args

    def _check_relations(self) -> None:
        for name, unit in self.multiples.items():
            whole, part = getattr(self, name), getattr(self, unit) if isinstance(unit, str) else unit
            wrong = None not in (whole, part) and (part < 1 or whole % part)
            refuse(wrong, f"{name}={whole} is not a multiple of {unit}={part}")
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
        for name in _ABOVE_ZERO:
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
            own = _rope_from_v5(self.rope_by_layer_type[layer_type])
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
    options = [spec.name for spec in dataclasses.fields(kind) if spec.name in _OPTIONS]
    found = {option: [getattr(args, name) for name in _OPTIONS[option] if hasattr(args, name)] for option in options}
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


def _matches(value: Any, hint: Any) -> bool:
    """Whether a JSON value fits a type hint; an int fits float, a bool fits only bool."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, h) for h in typing.get_args(hint))
    if hint is type(None):
        return value is None
    if origin is list:
        (inner,) = typing.get_args(hint)
        return isinstance(value, list) and all(_matches(v, inner) for v in value)
    if origin is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return (isinstance(value, int) and not isinstance(value, bool)) or (
            isinstance(value, float) and value.is_integer()
        )
    return isinstance(value, hint)


def _whole(value: Any, hint: Any) -> Any:
    """32 for 32.0 where only whole numbers fit."""
    if isinstance(value, list):
        return [_whole(v, typing.get_args(hint)[0]) for v in value] if typing.get_origin(hint) is list else value
    fits_float = hint in (float, Any) or any(h in (float, Any) for h in typing.get_args(hint))
    return int(value) if isinstance(value, float) and not fits_float else value


def _is_huge(value: Any, hint: Any) -> bool:
    """Whether a whole number, where only such fit, is beyond what a size or an id can be."""
    if isinstance(value, list):
        return typing.get_origin(hint) is list and any(_is_huge(v, typing.get_args(hint)[0]) for v in value)
    fits_float = hint in (float, Any) or any(h in (float, Any) for h in typing.get_args(hint))
    return isinstance(value, int) and not fits_float and abs(value) >= 2**31


def _show(hint: Any) -> str:
    return getattr(hint, "__name__", None) or str(hint).replace("typing.", "")
