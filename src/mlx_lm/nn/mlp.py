"""Dense feed-forward blocks."""

from collections.abc import Callable
from typing import TypeAlias

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..errors import ConfigError
from .linear import Linear

__all__ = ["MLP", "GatedActivation", "GatedMLP", "gated"]

GatedActivation: TypeAlias = str | Callable[[mx.array, mx.array], mx.array]
"""The name of the gate's activation, or a function of gate and up that gives what goes down."""


def checked_width(intermediate_size: int) -> int:
    """`intermediate_size`; raises ConfigError when a config gave none, or what no layer can have."""
    if not 1 <= intermediate_size < 2**31:
        raise ConfigError(f"config.json: intermediate_size must be from 1 to 2**31 - 1, not {intermediate_size}.")
    return intermediate_size


def gated(gate: mx.array, up: mx.array, act: GatedActivation) -> mx.array:
    """act(gate) * up, or what `act` makes of both."""
    return kernels.gated_activation(gate, up, act) if isinstance(act, str) else act(gate, up)


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)); `fused` keeps gate and up in one `gate_up_proj`. x (..., D) -> (..., D).

    Class attributes name the parameters.
    """

    gate_name, up_name, down_name = "gate_proj", "up_proj", "down_proj"
    fused_name = "gate_up_proj"

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        act: GatedActivation = "silu",
        *,
        bias: bool = False,
        fused: bool = False,
    ):
        super().__init__()
        checked_width(intermediate_size)
        self.act = act
        if fused:
            self[self.fused_name] = Linear(hidden_size, 2 * intermediate_size, bias=bias)
        else:
            self[self.gate_name] = Linear(hidden_size, intermediate_size, bias=bias)
            self[self.up_name] = Linear(hidden_size, intermediate_size, bias=bias)
        self[self.down_name] = Linear(intermediate_size, hidden_size, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        if self.fused_name in self:
            gate, up = mx.split(self[self.fused_name](x), 2, axis=-1)
        else:
            gate, up = self[self.gate_name](x), self[self.up_name](x)
        return self[self.down_name](gated(gate, up, self.act))


class MLP(nn.Module):
    """down(act(up(x))), without a gate. Class attributes name the parameters."""

    up_name, down_name = "up_proj", "down_proj"

    def __init__(self, hidden_size: int, intermediate_size: int, act: str, *, bias: bool = False):
        super().__init__()
        checked_width(intermediate_size)
        self.act = act
        self[self.up_name] = Linear(hidden_size, intermediate_size, bias=bias)
        self[self.down_name] = Linear(intermediate_size, hidden_size, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        return self[self.down_name](kernels.activation(self[self.up_name](x), self.act))
