"""Mamba: state spaces only. Source: https://arxiv.org/abs/2312.00752."""

import math
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError
from ..nn import DecoderLayer, Mamba, MambaOptions, RMSNorm
from .base import CausalLM, ModelNames
from .config import BaseModelArgs
from .mamba2 import mixer_layer
from .weights import Rename, Transform, conv_layout


@dataclass
class ModelArgs(BaseModelArgs):
    hidden_size: int = field(kw_only=True)
    num_hidden_layers: int = field(kw_only=True)
    vocab_size: int = field(kw_only=True)
    intermediate_size: int = 0  # expand * hidden_size
    expand: float = 2
    state_size: int = 16
    conv_kernel: int = 4
    time_step_rank: int | str = "auto"
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: str = "silu"
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        self.intermediate_size = self.intermediate_size or int(self.expand * self.hidden_size)
        if self.time_step_rank == "auto":
            self.time_step_rank = math.ceil(self.hidden_size / 16)
        if not isinstance(self.time_step_rank, int) or self.time_step_rank < 1:
            raise ConfigError(f"config.json: time_step_rank must be a number or 'auto', not {self.time_step_rank!r}.")


class Model(CausalLM):
    names = ModelNames(backbone="backbone", embed="embeddings", norm="norm_f")
    rules = (Rename(r"\bembedding\.", "embeddings."), Transform(r"\.conv1d\.weight$", conv_layout))

    @classmethod
    def layer(cls, args: Any, index: int) -> DecoderLayer:  # type: ignore[override]
        return mixer_layer(cls.mixer(args), args)

    @classmethod
    def mixer(cls, args: Any) -> Mamba:
        return Mamba(cls.options(args))

    @staticmethod
    def options(args: Any) -> MambaOptions:
        sizes = args.hidden_size, args.intermediate_size, args.state_size, args.time_step_rank, args.conv_kernel
        return MambaOptions(*sizes, bias=args.use_bias, conv_bias=args.use_conv_bias, act=args.hidden_act)

    @staticmethod
    def final_norm(args: Any) -> RMSNorm:
        return RMSNorm(args.hidden_size, args.layer_norm_epsilon)
