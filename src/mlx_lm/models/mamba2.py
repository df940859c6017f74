"""Mamba-2: state spaces only. Source: https://arxiv.org/abs/2405.21060."""

import math
from dataclasses import field, fields
from typing import Any

from mlx import nn

from ..errors import ConfigError
from ..nn import DecoderLayer, LayerNames, Mamba2, Mamba2Options, MambaOptions, RMSNorm
from .base import CausalLM, ModelNames
from .config import LanguageArgs, refuse
from .weights import Rename

# What configs call the options of a state space.
_NAMES = {
    "hidden_size": ("hidden_size",),
    "num_heads": ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads"),
    "head_dim": ("mamba_head_dim", "head_dim"),
    "groups": ("mamba_n_groups", "mamba_ngroups", "n_groups"),
    "state_size": ("mamba_d_state", "ssm_state_size", "state_size"),
    "rank": ("mamba_dt_rank", "time_step_rank"),
    "kernel": ("mamba_d_conv", "conv_kernel"),
    "bias": ("mamba_proj_bias", "use_bias", "add_bias_linear"),
    "conv_bias": ("mamba_conv_bias", "use_conv_bias"),
    "norm_groups": ("mamba_n_groups", "mamba_ngroups", "n_groups"),
    "norm_eps": ("rms_norm_eps", "layer_norm_epsilon"),
    "act": ("mamba_hidden_act", "hidden_mamba_act", "hidden_act"),
}


def mamba_options(args: Any, **changes: Any) -> MambaOptions:
    """Mamba-1 layers from any of the names that configs have; `changes` are what a family has otherwise."""
    return MambaOptions(**(_usual(MambaOptions, args) | changes))


def mamba2_options(args: Any, **changes: Any) -> Mamba2Options:
    """Mamba-2 layers from any of the names that configs have; `changes` are what a family has otherwise."""
    lists = hasattr(args, "time_step_limit")
    limit = parse_limit(args.time_step_limit) if lists else (getattr(args, "time_step_min", 0.0), math.inf)
    changes = {"time_step_limit": limit, **changes}
    return Mamba2Options(**(_usual(Mamba2Options, args) | changes))


def _usual(kind: type[Any], args: Any) -> dict[str, Any]:
    options = [spec.name for spec in fields(kind) if spec.name in _NAMES]
    found = {option: [getattr(args, name) for name in _NAMES[option] if hasattr(args, name)] for option in options}
    return {option: values[0] for option, values in found.items() if values}


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
    num_heads: int = 128
    head_dim: int = 64
    state_size: int = 128
    n_groups: int = 8
    intermediate_size: int | None = None
    time_step_limit: list[Any] = field(default_factory=lambda: [0.0, math.inf])

    def __post_init__(self) -> None:
        inner = int(self.expand * self.hidden_size)
        if inner != self.num_heads * self.head_dim or self.intermediate_size not in (None, inner):
            raise ConfigError(
                f"config.json: expand * hidden_size = {inner} must equal num_heads * head_dim = "
                f"{self.num_heads * self.head_dim} (and intermediate_size, if given)."
            )
        refuse(self.num_heads % self.n_groups, f"num_heads={self.num_heads} is no multiple of n_groups={self.n_groups}")


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
