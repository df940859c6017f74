"""Falcon-H1: Mamba-2 and attention side by side in every layer, with maximal-update multipliers.

mlx-lm's checkpoints hold most multipliers inside the weights, so the model does too; published ones are folded on
loading. Source: https://arxiv.org/abs/2507.22448.
"""

from dataclasses import field
from typing import Any

import mlx.core as mx

from ..nn import Attention, DecoderLayer, LayerNames, Mamba2, Mamba2Options
from ..state import LayerState, ListSpec, StateSpec, part
from .bamba import Mamba2Args
from .base import ModelNames
from .config import refuse
from .dense import DenseModel
from .weights import Published, Rule, Transform


class ModelArgs(Mamba2Args):
    max_position_embeddings: int = 8192
    mamba_rms_norm: bool = False
    mamba_norm_before_gate: bool = True
    projectors_bias: bool = False
    embedding_multiplier: float = 1.0
    lm_head_multiplier: float = 1.0
    attention_in_multiplier: float = 1.0
    attention_out_multiplier: float = 1.0
    key_multiplier: float = 1.0
    ssm_in_multiplier: float = 1.0
    ssm_out_multiplier: float = 1.0
    mlp_multipliers: list[float] = field(default_factory=lambda: [1.0, 1.0])
    ssm_multipliers: list[float] = field(default_factory=lambda: [1.0] * 5)

    def is_linear(self, index: int) -> bool:
        """Every layer has a state space; attention stands beside it."""
        return True

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(not self.embedding_multiplier, "embedding_multiplier must not be 0")
        wrong = (len(self.mlp_multipliers), len(self.ssm_multipliers)) != (2, 5)
        refuse(wrong, "mlp_multipliers must have 2 numbers, ssm_multipliers 5")

    def linear_options(self, **changes: Any) -> Mamba2Options:
        norm = {"norm": self.mamba_rms_norm, "norm_first": self.mamba_norm_before_gate}
        return super().linear_options(**norm, out_bias=self.projectors_bias, **changes)


def fold(pattern: str, factor: float | tuple[float, ...]) -> Transform:
    """Multiplies what matches by a number, or by one for each row."""
    factors = mx.array(factor, mx.float32)
    by_row = factors[:, None] if factors.ndim else factors
    return Transform(pattern, lambda v: (v * (by_row if v.ndim == 2 else factors)).astype(v.dtype))


class ScaledAttention(Attention):
    """Attention with the two multipliers that mlx-lm's checkpoints do not hold in the weights."""

    def add(self, args: Any, index: int) -> None:
        self.key_scale, self.value_scale = args.key_multiplier, args.attention_in_multiplier

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array | None]:
        queries, keys, values, gate = super()._project(x)
        if self.value_scale != 1.0:
            values = values * self.value_scale
            if "bias" in self["v_proj"]:  # the factor is on the layer's input
                bias = mx.unflatten(self["v_proj"].bias, 0, (values.shape[1], 1, -1))
                values = values + (1 - self.value_scale) * bias
        return queries, keys * self.key_scale, values, gate


class Layer(DecoderLayer):
    def state_spec(self) -> StateSpec:
        return ListSpec((self["mamba"].state_spec(), self["self_attn"].state_spec()))

    def _mix(self, x: mx.array, state: LayerState) -> mx.array:
        return self["mamba"](x, part(state, 0)) + self["self_attn"](x, part(state, 1))


class Model(DenseModel):
    names = ModelNames(norm="final_layernorm")
    layer_names = LayerNames("mamba", "feed_forward", pre_feed_forward="pre_ff_layernorm")
    layer_type = Layer
    attention_type = ScaledAttention
    linear_type = Mamba2

    def weight_rules(self) -> tuple[Rule, ...]:
        a = self.args
        options, (gate, down) = a.linear_options(), a.mlp_multipliers
        inner, maps = options.num_heads * options.head_dim, options.groups * options.state_size
        sizes = (inner, inner, maps, maps, options.num_heads)
        rows = tuple(m for m, n in zip(a.ssm_multipliers, sizes, strict=True) for _ in range(n))
        folds = (
            fold(r"embed_tokens\.weight$", a.embedding_multiplier),
            fold(r"^lm_head\.weight$", a.lm_head_multiplier),
            fold(r"self_attn\.[qk]_proj\.weight$", a.attention_in_multiplier),
            fold(r"self_attn\.o_proj\.", a.attention_out_multiplier),
            fold(r"feed_forward\.gate_proj\.", gate),
            fold(r"feed_forward\.down_proj\.", down),
            fold(r"mamba\.in_proj\.weight$", tuple(m * a.ssm_in_multiplier for m in rows)),
            fold(r"mamba\.in_proj\.bias$", rows),
            fold(r"mamba\.out_proj\.", a.ssm_out_multiplier),
        )
        return (Published(folds), *super().weight_rules())

    def layer(self, args: Any, index: int) -> DecoderLayer:
        layer = super().layer(args, index)
        layer.self_attn = self.mixer(args, index)
        return layer

    def embed_scale(self, args: Any) -> float:
        return 1.0  # the weights hold it

    def logit_scale(self, args: Any) -> float:
        # A tied head reads the embedding, which holds the embedding's multiplier.
        return args.lm_head_multiplier / args.embedding_multiplier if args.tie_word_embeddings else 1.0
