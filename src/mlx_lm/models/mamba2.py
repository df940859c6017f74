"""Mamba-2: state spaces only. Source: https://arxiv.org/abs/2405.21060."""

import math
from dataclasses import field
from typing import Any

from mlx import nn

from ..errors import ConfigError
from ..nn import DecoderLayer, LayerNames, Mamba2, Mamba2Options, RMSNorm
from .parts import CausalLM, LanguageArgs, ModelNames, Rename, block_options, refuse


def mamba2_options(args: Any, **changes: Any) -> Mamba2Options:
    """Mamba-2 layers from any of the names that configs have; `changes` are what a family has otherwise."""
    lists = hasattr(args, "time_step_limit")
    limit = parse_limit(args.time_step_limit) if lists else (getattr(args, "time_step_min", 0.0), math.inf)
    return block_options(Mamba2Options, args, **{"time_step_limit": limit, **changes})


def parse_limit(value: Any) -> tuple[float, float]:
    """`time_step_limit` of a config; infinity may be a number, a word, or transformers' {"__float__": "Infinity"}."""
    items = [v.get("__float__") if isinstance(v, dict) else v for v in value] if isinstance(value, list) else []
    try:
        low, high = (math.inf if v is None else float(v) for v in items)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.json: time_step_limit must be two numbers, not {value!r}.") from error
    refuse(not 0 <= low <= high, f"time_step_limit must rise from 0 or more, not {value!r}")
    return low, high


class StateSpaceArgs(LanguageArgs):
    """What both Mambas' configs have."""

    conv_kernel: int = 4
    expand: float = 2
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: str = "silu"
    layer_norm_epsilon: float = 1e-5


class ModelArgs(StateSpaceArgs):
    multiples = {"num_heads": "n_groups"}
    num_heads: int = 128
    head_dim: int = 64
    state_size: int = 128
    n_groups: int = 8
    intermediate_size: int | None = None
    time_step_limit: list[Any] = field(default_factory=lambda: [0.0, math.inf])

    def __post_init__(self) -> None:
        inner = int(self.expand * self.hidden_size)
        others = self.num_heads * self.head_dim, self.intermediate_size or inner
        refuse({*others} != {inner}, f"expand * hidden_size = {inner} must be num_heads * head_dim, intermediate_size")


class Model(CausalLM):
    """Each layer is a mixer only: x + mixer(norm(x))."""

    names = ModelNames(backbone="backbone", embed="embeddings", norm="norm_f")
    rules = (Rename(r"\bembedding\.", "embeddings."),)

    def layer(self, args: Any, index: int) -> DecoderLayer:
        names = LayerNames("mixer", pre_mixer="norm")
        return DecoderLayer(mixer=self.mixer(args), norm=lambda: self.final_norm(args), names=names)

    def mixer(self, args: Any) -> nn.Module:
        return Mamba2(mamba2_options(args))

    def final_norm(self, args: Any) -> RMSNorm:
        return RMSNorm(args.hidden_size, args.layer_norm_epsilon)
