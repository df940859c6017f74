"""Mamba: state spaces only. Source: https://arxiv.org/abs/2312.00752."""

import math
from typing import Any

from ..nn import Mamba, MambaOptions
from . import mamba2
from .config import block_options, refuse


def step_rank(args: Any, name: str) -> int:
    """Field `name`, which is a positive number, or "auto" for a sixteenth of `hidden_size`; else ConfigError."""
    rank = getattr(args, name)
    rank = math.ceil(args.hidden_size / 16) if rank == "auto" else rank
    refuse(not isinstance(rank, int) or rank < 1, f"{name} must be a number or 'auto', not {rank!r}")
    return rank


class ModelArgs(mamba2.StateSpaceArgs):
    intermediate_size: int = 0  # expand * hidden_size
    state_size: int = 16
    time_step_rank: int | str = "auto"
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        self.intermediate_size = self.intermediate_size or int(self.expand * self.hidden_size)
        self.time_step_rank = step_rank(self, "time_step_rank")


class Model(mamba2.Model):
    def mixer(self, args: Any) -> Mamba:
        return Mamba(self.options(args))

    def options(self, args: Any) -> MambaOptions:
        return block_options(MambaOptions, args, inner_size=args.intermediate_size)
