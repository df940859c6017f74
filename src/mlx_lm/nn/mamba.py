"""Selective state spaces: Mamba-2 (one decay for a head) and Mamba-1 (one for each channel and state).

Sources: https://arxiv.org/abs/2405.21060, https://arxiv.org/abs/2312.00752. States are float32.
"""

import math
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..state import ArraySlot, LayerState, RecurrentSpec, StateSpec, gather_slot, scatter_slots
from .conv import CausalConv
from .linear import Linear
from .norm import GatedRMSNorm

__all__ = ["Mamba", "Mamba2", "Mamba2Options", "MambaOptions"]


@dataclass(frozen=True)
class Mamba2Options:
    """Sizes and switches of one Mamba-2 layer.

    Attributes:
        groups: heads share the input and output maps of their group.
        kernel: width of the convolution.
        bias: on the projections; `out_bias` on the output's, where it differs.
        time_step_limit: least and greatest time step, after the softplus.
        norm: a gated norm before the output projection; without it the output is only gated.
        norm_groups: parts over which that norm is taken.
        norm_first: it norms before it gates.
        act: after the convolution and on the gate.
    """

    hidden_size: int
    num_heads: int
    head_dim: int
    groups: int
    state_size: int
    kernel: int
    bias: bool = False
    out_bias: bool | None = None
    conv_bias: bool = True
    time_step_limit: tuple[float, float] = (0.0, math.inf)
    norm: bool = True
    norm_groups: int = 1
    norm_first: bool = False
    norm_eps: float = 1e-5
    act: str = "silu"


class Mamba2(nn.Module):
    """x (B, L, D) -> (B, L, D)."""

    def __init__(self, options: Mamba2Options):
        super().__init__()
        self._options = o = options
        inner = o.num_heads * o.head_dim
        convolved = inner + 2 * o.groups * o.state_size
        self.conv1d = CausalConv(convolved, o.kernel, bias=o.conv_bias)
        self.in_proj = Linear(o.hidden_size, inner + convolved + o.num_heads, bias=o.bias)
        self.dt_bias = mx.ones((o.num_heads,))
        self.A_log = mx.log(mx.arange(1, o.num_heads + 1, dtype=mx.float32))
        self.D = mx.ones((o.num_heads,))
        if o.norm:
            self.norm = GatedRMSNorm(inner, o.norm_eps, groups=o.norm_groups, norm_first=o.norm_first)
        self.out_proj = Linear(inner, o.hidden_size, bias=o.bias if o.out_bias is None else o.out_bias)

    def state_spec(self) -> StateSpec:
        """What the layer keeps for a sequence: the convolution's last inputs and the state space."""
        o = self._options
        return RecurrentSpec((self.conv1d.slot(), ArraySlot((o.num_heads, o.head_dim, o.state_size), mx.float32)))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        o = self._options
        gate, mixed, dt = self._project(x)
        mixed, tail = self.conv1d(mixed, gather_slot(state, 0))
        values, b, c, dt = self._maps(kernels.activation(mixed, o.act), dt)
        b, c = (mx.unflatten(a, -1, (o.groups, o.state_size)) for a in (b, c))
        dt, (least, most) = nn.softplus(dt.astype(mx.float32) + self.dt_bias.astype(mx.float32)), o.time_step_limit
        dt = dt if least <= 0.0 and math.isinf(most) else mx.clip(dt, least, most)
        values, decay = mx.unflatten(values, -1, (o.num_heads, -1)), -mx.exp(self.A_log.astype(mx.float32))
        y, memory = kernels.selective_scan(values, dt, decay, b, c, self.D, gather_slot(state, 1))
        scatter_slots(state, [tail, memory], x.shape[1])
        y = y.flatten(2)
        return self.out_proj(self.norm(y, gate) if o.norm else y * kernels.activation(gate, o.act))

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array | None]:
        """Gate, the part that is convolved, and time steps, where they do not come from that part."""
        o = self._options
        inner = o.num_heads * o.head_dim
        gate, mixed, dt = mx.split(self.in_proj(x), [inner, 2 * (inner + o.groups * o.state_size)], axis=-1)
        return gate, mixed, dt

    def _maps(self, mixed: mx.array, dt: Any) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """Values, input map, output map and time steps, from what was convolved and the time steps so far."""
        o = self._options
        inner, maps = o.num_heads * o.head_dim, o.groups * o.state_size
        values, b, c = mx.split(mixed, [inner, inner + maps], axis=-1)
        return values, b, c, dt


@dataclass(frozen=True)
class MambaOptions:
    """Sizes and switches of one Mamba-1 layer.

    Attributes:
        inner_size: channels of the state space.
        rank: of the projection that makes the time steps.
    """

    hidden_size: int
    inner_size: int
    state_size: int
    rank: int
    kernel: int
    bias: bool = False
    conv_bias: bool = True
    act: str = "silu"


class Mamba(nn.Module):
    """x (B, L, D) -> (B, L, D); a family that norms the projected steps and maps overrides `normed`."""

    def __init__(self, options: MambaOptions):
        super().__init__()
        self._options = o = options
        self.in_proj = Linear(o.hidden_size, 2 * o.inner_size, bias=o.bias)
        self.conv1d = CausalConv(o.inner_size, o.kernel, bias=o.conv_bias)
        self.x_proj = Linear(o.inner_size, o.rank + 2 * o.state_size, bias=False)
        self.dt_proj = Linear(o.rank, o.inner_size, bias=True)
        steps = mx.arange(1, o.state_size + 1, dtype=mx.float32)
        self.A_log = mx.broadcast_to(mx.log(steps), (o.inner_size, o.state_size))
        self.D = mx.ones((o.inner_size,))
        self.out_proj = Linear(o.inner_size, o.hidden_size, bias=o.bias)

    def state_spec(self) -> StateSpec:
        """What the layer keeps for a sequence: the convolution's last inputs and the state space."""
        o = self._options
        return RecurrentSpec((self.conv1d.slot(), ArraySlot((o.inner_size, o.state_size), mx.float32)))

    def normed(self, dt: mx.array, b: mx.array, c: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """The compressed time steps (B, L, rank) and the maps (B, L, N), normalized where the family does so."""
        return dt, b, c

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        o = self._options
        values, gate = self._halves(self.in_proj(x))
        values, tail = self.conv1d(values, gather_slot(state, 0))
        y, memory = self._scan(kernels.activation(values, o.act), gather_slot(state, 1))
        scatter_slots(state, [tail, memory], x.shape[1])
        return self.out_proj(y * kernels.activation(gate, o.act))

    def _halves(self, both: mx.array) -> tuple[mx.array, mx.array]:
        """Values and gate (B, L, C)."""
        values, gate = mx.split(both, 2, axis=-1)
        return values, gate

    def _scan(self, values: mx.array, memory: mx.array | None) -> tuple[mx.array, mx.array]:
        """What the state space makes of values (B, L, C), and the next memory."""
        o = self._options
        dt, b, c = self.normed(*mx.split(self.x_proj(values), [o.rank, o.rank + o.state_size], axis=-1))
        dt, decay = nn.softplus(self.dt_proj(dt).astype(mx.float32)), -mx.exp(self.A_log.astype(mx.float32))
        return kernels.diagonal_scan(values, dt, decay, b, c, self.D, memory)
