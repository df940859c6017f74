"""Mamba-2: state spaces only. Source: https://arxiv.org/abs/2405.21060."""

import math
from dataclasses import field
from typing import Any

from ..errors import ConfigError
from ..nn import DecoderLayer, LayerNames, Mamba2, Mamba2Options, RMSNorm
from .base import CausalLM, ModelNames
from .config import BaseModelArgs, refuse
from .weights import Rename


def parse_limit(value: Any) -> tuple[float, float]:
    """`time_step_limit` of a config; infinity may be a number, a word, or transformers' {"__float__": "Infinity"}."""
    items = [v.get("__float__") if isinstance(v, dict) else v for v in value] if isinstance(value, list) else []
    try:
        low, high = (math.inf if v is None else float(v) for v in items)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.json: time_step_limit must be two numbers, not {value!r}.") from error
    refuse(not 0 <= low <= high, f"time_step_limit must rise from 0 or more, not {value!r}")
    return low, high


class ModelArgs(BaseModelArgs):
    hidden_size: int
    num_hidden_layers: int
    vocab_size: int
    num_heads: int = 128
    head_dim: int = 64
    state_size: int = 128
    n_groups: int = 8
    conv_kernel: int = 4
    expand: float = 2
    intermediate_size: int | None = None
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: str = "silu"
    layer_norm_epsilon: float = 1e-5
    time_step_limit: list[Any] = field(default_factory=lambda: [0.0, math.inf])
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        inner = int(self.expand * self.hidden_size)
        if inner != self.num_heads * self.head_dim or self.intermediate_size not in (None, inner):
            raise ConfigError(
                f"config.json: expand * hidden_size = {inner} must equal num_heads * head_dim = "
                f"{self.num_heads * self.head_dim} (and intermediate_size, if given)."
            )
        refuse(self.num_heads % self.n_groups, f"num_heads={self.num_heads} is no multiple of n_groups={self.n_groups}")


class Model(CausalLM):
    names = ModelNames(backbone="backbone", embed="embeddings", norm="norm_f")
    rules = (Rename(r"\bembedding\.", "embeddings."),)

    def layer(self, args: Any, index: int) -> DecoderLayer:
        options = Mamba2Options(
            args.hidden_size,
            args.num_heads,
            args.head_dim,
            args.n_groups,
            args.state_size,
            args.conv_kernel,
            bias=args.use_bias,
            conv_bias=args.use_conv_bias,
            time_step_limit=parse_limit(args.time_step_limit),
            norm_groups=args.n_groups,
            norm_eps=args.layer_norm_epsilon,
            act=args.hidden_act,
        )
        return mixer_layer(Mamba2(options), args)

    def final_norm(self, args: Any) -> RMSNorm:
        return RMSNorm(args.hidden_size, args.layer_norm_epsilon)


def mixer_layer(mixer: Any, args: Any) -> DecoderLayer:
    """A layer of a mixer only: x + mixer(norm(x))."""
    names = LayerNames("mixer", None, pre_mixer="norm", pre_feed_forward=None)
    return DecoderLayer(
        mixer=mixer, feed_forward=None, norm=lambda: RMSNorm(args.hidden_size, args.layer_norm_epsilon), names=names
    )
