"""Mamba: state spaces only. Source: https://arxiv.org/abs/2312.00752."""

import math
from typing import Any

from ..nn import DecoderLayer, Mamba, MambaOptions, RMSNorm
from .base import CausalLM, ModelNames
from .config import BaseModelArgs, refuse
from .mamba2 import mixer_layer
from .weights import Rename


def step_rank(args: Any, name: str) -> int:
    """Field `name`, which is a positive number, or "auto" for a sixteenth of `hidden_size`; else ConfigError."""
    rank = getattr(args, name)
    rank = math.ceil(args.hidden_size / 16) if rank == "auto" else rank
    refuse(not isinstance(rank, int) or rank < 1, f"{name} must be a number or 'auto', not {rank!r}")
    return rank


class ModelArgs(BaseModelArgs):
    hidden_size: int
    num_hidden_layers: int
    vocab_size: int
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
        self.time_step_rank = step_rank(self, "time_step_rank")


class Model(CausalLM):
    names = ModelNames(backbone="backbone", embed="embeddings", norm="norm_f")
    rules = (Rename(r"\bembedding\.", "embeddings."),)

    def layer(self, args: Any, index: int) -> DecoderLayer:
        return mixer_layer(self.mixer(args), args)

    def mixer(self, args: Any) -> Mamba:
        return Mamba(self.options(args))

    def options(self, args: Any) -> MambaOptions:
        sizes = args.hidden_size, args.intermediate_size, args.state_size, args.time_step_rank, args.conv_kernel
        return MambaOptions(*sizes, bias=args.use_bias, conv_bias=args.use_conv_bias, act=args.hidden_act)

    def final_norm(self, args: Any) -> RMSNorm:
        return RMSNorm(args.hidden_size, args.layer_norm_epsilon)
