"""The usual decoder: grouped-query attention and a gated feed-forward between norms, each piece replaceable.

A family overrides the pieces in which it differs. This module knows no family.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from mlx import nn

from ..nn import PRE_NORM, Attention, AttentionOptions, DecoderLayer, LayerNames, LayerNorm, MoE, RMSNorm, Routing
from ..nn.mlp import GatedActivation, GatedMLP
from ..nn.rope import Rope, RopeParameters, make_rope
from .base import CausalLM, flag
from .config import DecoderArgs, check_kinds, refuse, rope_parameters
from .experts import gated_moe, usual_routing

__all__ = ["DenseModel", "KindRopeArgs", "LinearArgs", "SlidingArgs", "TwoRopeArgs"]

_OTHER_KINDS = {"mamba": "linear_attention", "attention": "full_attention"}


class LinearArgs(DecoderArgs):
    """A config whose `layer_types` says which layers have "linear_attention" and which "full_attention".

    Without it, layers attend where the family's `attends` says. `kinds` are a family's names for the two.
    """

    layer_types: list[str] | None = None
    kinds: ClassVar[tuple[str, ...]] = ("linear_attention", "full_attention")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer_types is None:
            self.layer_types = [self.kinds[self.attends(i)] for i in range(self.num_hidden_layers)]
        self.layer_types = [_OTHER_KINDS.get(kind, kind) for kind in self.layer_types]
        check_kinds(self, "layer_types", self.kinds)

    def is_linear(self, index: int) -> bool:
        return self.layer_types is not None and self.layer_types[index] == self.kinds[0]

    def attends(self, index: int) -> bool:
        """Whether layer `index` has full attention where a config does not list `layer_types`."""
        return True


class SlidingArgs(DecoderArgs):
    """A config with `sliding_window`, on the layers that `layer_types` names.

    Without `layer_types`, every `sliding_window_pattern`-th layer is full and the others slide, or as the family's
    `slides` says; without both, all do. With a `use_sliding_window` that is false, none does.
    """

    sliding_window: int | None = None
    layer_types: list[str] | None = None
    sliding_window_pattern: int | None = None
    kinds: ClassVar[tuple[str, ...]] = ("full_attention", "sliding_attention")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not getattr(self, "use_sliding_window", True):
            self.sliding_window = self.layer_types = None
        elif self.layer_types is None:
            pattern = self.sliding_window_pattern
            refuse(pattern is not None and pattern < 1, f"sliding_window_pattern must be at least 1, not {pattern}")
            slides = [self.slides(i) for i in range(self.num_hidden_layers)]
            if None not in slides:
                self.layer_types = ["sliding_attention" if s else "full_attention" for s in slides]
        if self.layer_types is not None:
            check_kinds(self, "layer_types", self.kinds)
        size, some = self.sliding_window, self.layer_types is None or "sliding_attention" in self.layer_types
        refuse(some and size is not None and size < 1, f"sliding_window must be at least 1, not {size}")

    def slides(self, index: int) -> bool | None:
        """Whether layer `index` slides where a config does not list `layer_types`; None leaves it without a list."""
        every = self.sliding_window_pattern
        return None if every is None else (index + 1) % every != 0

    def layer_type(self, index: int) -> str:
        """ "full_attention" or "sliding_attention"."""
        if self.layer_types is not None:
            return self.layer_types[index]
        return "full_attention" if self.sliding_window is None else "sliding_attention"

    def window(self, index: int) -> int | None:
        return self.sliding_window if self.layer_type(index) == "sliding_attention" else None

    def layer_rope(self, index: int) -> RopeParameters:
        rope, thetas = self.rope_parameters(self.layer_type(index)), getattr(self, "layer_rope_theta", None)
        return rope if thetas is None else replace(rope, theta=thetas[index])


class KindRopeArgs(SlidingArgs):
    """Layers of a kind for which `rope_parameters` has no entry have no positions."""

    def has_rope(self, index: int) -> bool:
        return self.layer_type(index) in (self.rope_by_layer_type or {})


class TwoRopeArgs(SlidingArgs):
    """Sliding layers have a rope of their own, without scaling."""

    rope_local_base_freq: float | None = None

    def layer_rope(self, index: int) -> RopeParameters:
        kind = self.layer_type(index)
        if self.rope_by_layer_type is not None or kind == "full_attention":
            return self.rope_parameters(kind)
        theta, partial = self.rope_local_base_freq or self.rope_theta, getattr(self, "partial_rotary_factor", 1.0)
        return rope_parameters(theta, partial, None, self.max_position_embeddings)


class DenseModel(CausalLM):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); families replace class attributes and methods."""

    layer_names: ClassVar[LayerNames] = PRE_NORM
    linear_names: ClassVar[LayerNames | None] = None  # of layers with a `linear_mixer`, where they are others
    linear_type: ClassVar[type[Any]]  # of a `linear_mixer` that is made of `args.linear_options()`
    traditional_rope: ClassVar[bool] = False  # rotate neighbouring features instead of the two halves
    attention_type: ClassVar[type[Attention]] = Attention
    layer_type: ClassVar[type[DecoderLayer]] = DecoderLayer
    attention: ClassVar[Mapping[str, Any]] = {}  # options of the attention in every layer
    feed_forward_type: ClassVar[type[Any]] = GatedMLP
    feed_forward_options: ClassVar[Mapping[str, Any]] = {}
    moe_type: ClassVar[type[MoE]] = MoE
    moe_options: ClassVar[Mapping[str, Any]] = {}  # of `gated_moe`; words are fields of the config
    routing_options: ClassVar[Mapping[str, Any]] = {}  # see `usual_routing`
    # True, False or the field of the config that says so:
    qk_norm: ClassVar[bool | str] = False  # norms on queries and keys, of the layers' kind
    parallel: ClassVar[bool | str] = False  # the feed-forward reads what the mixer reads
    norm_options: ClassVar[Mapping[str, Any]] = {}  # of the layers' norms
    # Layers that see everything have no positions; `rope_unless_sliding`: where others slide.
    rope_where_sliding: ClassVar[bool] = False
    rope_unless_sliding: ClassVar[bool] = False

    def layer(self, args: Any, index: int) -> Any:
        layer = self.layer_type_at(args, index)(
            mixer=(self.linear_mixer if args.is_linear(index) else self.mixer)(args, index),
            feed_forward=self.feed_forward(args, index),
            norm=lambda: self.norm(args),
            names=self.names_at(args, index),
            residual_scale=self.residual_scale(args),
            parallel=flag(args, self.parallel),
        )
        layer.add(args, index)
        return layer

    def layer_type_at(self, args: Any, index: int) -> type[DecoderLayer]:
        return self.layer_type

    def mixer(self, args: Any, index: int) -> nn.Module | None:
        mixer = self.attention_type_at(args, index)(self.attention_options(args, index))
        mixer.add(args, index)
        return mixer

    def attention_type_at(self, args: Any, index: int) -> type[Attention]:
        return self.attention_type

    def linear_mixer(self, args: Any, index: int) -> nn.Module:
        """What mixes in place of attention where `args.is_linear`: a recurrence, a state space, a convolution."""
        return self.linear_type(args.linear_options())

    def names_at(self, args: Any, index: int) -> LayerNames:
        """Names of the parts of layer `index`, for families whose layers differ in kind."""
        return self.linear_names if self.linear_names and args.is_linear(index) else self.layer_names

    def attention_options(self, args: Any, index: int, **changes: Any) -> AttentionOptions:
        """The attention of layer `index`; `changes` are what a family has otherwise."""
        heads, kv_heads, head_dim = args.layer_heads(index)
        bias = getattr(args, "attention_bias", getattr(args, "use_bias", False))
        usual = {
            "hidden_size": args.hidden_size,
            "num_heads": heads,
            "num_kv_heads": kv_heads,
            "head_dim": head_dim,
            "rope": self.rope(args, index),
            "scale": args.attention_scale(index),
            "softcap": getattr(args, "attn_logit_softcapping", None) or None,
            "window": args.window(index),
            "bias": bias,
            "out_bias": getattr(args, "attention_out_bias", bias),
            "clip": getattr(args, "clip_qkv", None) or None,
            "qk_norm": partial(self.norm_of, args) if flag(args, self.qk_norm) else None,
        }
        return AttentionOptions(**{**usual, **self.attention, **changes})

    def rope(self, args: Any, index: int) -> Rope | None:
        if not self.has_rope(args, index):
            return None
        return make_rope(args.layer_heads(index)[2], args.layer_rope(index), traditional=self.traditional_rope)

    def has_rope(self, args: Any, index: int) -> bool:
        """Whether layer `index` has positions."""
        only = self.rope_where_sliding or (self.rope_unless_sliding and args.sliding_window is not None)
        return args.has_rope(index) and not (only and args.window(index) is None)

    def feed_forward(self, args: Any, index: int) -> nn.Module | None:
        if args.has_experts(index):
            return self.experts(args)
        options = {"bias": getattr(args, "mlp_bias", getattr(args, "use_bias", False)), **self.feed_forward_options}
        return self.feed_forward_type(args.hidden_size, args.layer_width(index), self.activation(args), **options)

    def activation(self, args: Any) -> GatedActivation:
        """Of feed-forwards and experts."""
        return args.hidden_act

    def experts(self, args: Any) -> nn.Module:
        """What a layer has in place of a feed-forward where `args.has_experts`."""
        options = {k: getattr(args, v) if isinstance(v, str) else v for k, v in self.moe_options.items()}
        return gated_moe(args, self.routing(args), self.moe_type, act=self.activation(args), **options)

    def routing(self, args: Any) -> Routing:
        return usual_routing(args, **self.routing_options)

    def norm(self, args: Any) -> nn.Module:
        return self.norm_of(args, args.hidden_size)

    @classmethod
    def norm_of(cls, args: Any, size: int) -> nn.Module:
        """A norm over `size` features."""
        if hasattr(args, "layer_norm_eps"):
            return LayerNorm(size, args.layer_norm_eps, **cls.norm_options)
        return RMSNorm(size, args.rms_norm_eps, **cls.norm_options)

    def final_norm(self, args: Any) -> nn.Module:
        return self.norm(args)

    def residual_scale(self, args: Any) -> float:
        return getattr(args, "residual_multiplier", 1.0)
