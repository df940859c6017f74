"""Linear attention by the gated delta rule: a matrix per head that forgets, and corrects what it recalls for a key.

Sources: Gated DeltaNet, https://arxiv.org/abs/2412.06464; Kimi Linear, https://arxiv.org/abs/2510.26692. Everything
is computed in float32. The matrix is kept in float32, or in bfloat16 where the environment has
MLX_LM_GDN_STATE_BF16=1 (half the bytes for each sequence, at a small cost in accuracy).
"""

import os
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..state import ArraySlot, LayerState, RecurrentSpec, StateSpec, gather_slot, scatter_slots
from .conv import CausalConv
from .linear import Linear
from .norm import GatedRMSNorm

__all__ = ["ChannelDelta", "DeltaOptions", "GatedDelta", "SeparateDelta", "delta_state_dtype", "unit_heads"]

_UNIT_EPS = 1e-6  # under the root when keys and queries are made unit vectors


@dataclass(frozen=True)
class DeltaOptions:
    """Sizes and switches of one layer.

    Attributes:
        key_heads, value_heads: value heads are a multiple of key heads, which they share in turn.
        kernel: width of the convolution over queries, keys and values.
        fused: queries, keys, values and gate come from one `in_proj_qkvz`, update rates and decays from one
            `in_proj_ba`, both laid out by key head; otherwise from `in_proj_{qkv,z,b,a}`.
        rate: greatest update rate: 1, or 2 where a step may turn a memory around.
        act: after the convolution.
        gate_act: on the output's gate.
        lower_bound: the least logarithm of a decay, for layers that have one.
    """

    hidden_size: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    fused: bool = False
    rate: float = 1.0
    norm_eps: float = 1e-6
    act: str = "silu"
    gate_act: str = "silu"
    lower_bound: float | None = None

    @property
    def key_size(self) -> int:
        return self.key_heads * self.key_dim

    @property
    def value_size(self) -> int:
        return self.value_heads * self.value_dim


class GatedDelta(nn.Module):
    """x (B, L, D) -> (B, L, D). Families with other projections override `_build`, `_project` and the names."""

    norm_name, out_name = "norm", "out_proj"

    def __init__(self, options: DeltaOptions):
        super().__init__()
        self._options = o = options
        self._build(o)
        self[self.norm_name] = GatedRMSNorm(o.value_dim, o.norm_eps, norm_first=True, gate_act=o.gate_act)
        self[self.out_name] = Linear(o.value_size, o.hidden_size, bias=False)

    def _build(self, o: DeltaOptions) -> None:
        """The input side's parameters."""
        mixed, heads = 2 * o.key_size + o.value_size, o.value_heads
        self.conv1d = CausalConv(mixed, o.kernel, bias=False)
        apart = {"qkv": mixed, "z": o.value_size, "b": heads, "a": heads}
        for name, size in ({"qkvz": mixed + o.value_size, "ba": 2 * heads} if o.fused else apart).items():
            self[f"in_proj_{name}"] = Linear(o.hidden_size, size, bias=False)
        self.dt_bias = mx.ones((o.value_heads,))
        self.A_log = mx.log(mx.random.uniform(low=0.01, high=16, shape=(o.value_heads,)))

    def state_spec(self) -> StateSpec:
        """What the layer keeps for a sequence: the convolution's last inputs and the matrix of each head."""
        o = self._options
        tail = ArraySlot((o.kernel - 1, 2 * o.key_size + o.value_size))
        return RecurrentSpec((tail, ArraySlot((o.value_heads, o.value_dim, o.key_dim), delta_state_dtype())))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        o = self._options
        mixed, gate, decays, rates = self._project(x)
        mixed, tail = self._convolve(mixed, gather_slot(state, 0))
        q, k, v = mx.split(kernels.activation(mixed, o.act), [o.key_size, 2 * o.key_size], axis=-1)
        q, k = (unit_heads(mx.unflatten(a, -1, (o.key_heads, o.key_dim))) for a in (q, k))
        memory, dtype = gather_slot(state, 1), delta_state_dtype()
        if memory is None:
            memory = mx.zeros((x.shape[0], o.value_heads, o.value_dim, o.key_dim), dtype)
        memory = memory.astype(dtype)  # a state saved under the other setting
        v = mx.unflatten(v, -1, (o.value_heads, o.value_dim))
        rates = mx.sigmoid(rates.astype(mx.float32)) * o.rate
        y, memory = kernels.gated_delta(q * o.key_dim**-0.5, k, v, decays, rates, memory)
        scatter_slots(state, [tail, memory], x.shape[1])
        y = self[self.norm_name](y, mx.unflatten(gate, -1, (o.value_heads, o.value_dim)))
        return self[self.out_name](y.flatten(2))

    def _convolve(self, mixed: mx.array, tail: mx.array | None) -> tuple[mx.array, mx.array]:
        return self.conv1d(mixed, tail)

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """Queries, keys and values side by side (B, L, C); gates (B, L, Hv*Dv); log decays; rates before sigmoid."""
        if self._options.fused:
            mixed, gate, rates, steps = self._unfuse(self.in_proj_qkvz(x), self.in_proj_ba(x))
        else:
            mixed, gate = self.in_proj_qkv(x), self.in_proj_z(x)
            rates, steps = self.in_proj_b(x), self.in_proj_a(x)
        return mixed, gate, self._log_decay(steps), rates

    def _log_decay(self, steps: mx.array) -> mx.array:
        """-exp(A_log) * softplus(steps + dt_bias): (B, L, Hv), float32."""
        steps = nn.softplus(steps.astype(mx.float32) + self.dt_bias.astype(mx.float32))
        return -mx.exp(self.A_log.astype(mx.float32)) * steps

    def _unfuse(self, qkvz: mx.array, ba: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """Takes apart what is laid out by key head."""
        o = self._options
        share = o.value_heads // o.key_heads
        cuts = [o.key_dim, 2 * o.key_dim, 2 * o.key_dim + share * o.value_dim]
        q, k, v, z = mx.split(mx.unflatten(qkvz, -1, (o.key_heads, -1)), cuts, axis=-1)
        b, a = mx.split(mx.unflatten(ba, -1, (o.key_heads, -1)), 2, axis=-1)
        mixed = mx.concatenate([m.flatten(2) for m in (q, k, v)], axis=-1)
        return mixed, z.flatten(2), b.flatten(2), a.flatten(2)


class SeparateDelta(GatedDelta):
    """The same rule where queries, keys and values have a projection and a convolution each; `g_proj` is the gate."""

    norm_name, out_name = "o_norm", "o_proj"
    steps_name = "a"
    narrow = ""  # which of the steps' and the gate's projections have a narrow middle

    def _build(self, o: DeltaOptions) -> None:
        for name, size in (("q", o.key_size), ("k", o.key_size), ("v", o.value_size)):
            self[f"{name}_proj"] = Linear(o.hidden_size, size, bias=False)
            self._build_conv(name, size)
        self.b_proj = Linear(o.hidden_size, o.value_heads, bias=False)
        for name, size in ((self.steps_name, self._steps(o)), ("g", o.value_size)):
            if name in self.narrow:
                self[f"{name}_a_proj"] = Linear(o.hidden_size, o.value_dim, bias=False)
                self[f"{name}_b_proj"] = Linear(o.value_dim, size, bias=False)
            else:
                self[f"{name}_proj"] = Linear(o.hidden_size, size, bias=False)
        self.dt_bias = mx.ones((self._steps(o),))
        self.A_log = mx.log(mx.random.uniform(low=0.01, high=16, shape=(o.value_heads,)))

    def _build_conv(self, name: str, size: int) -> None:
        self[f"{name}_conv1d"] = CausalConv(size, self._options.kernel, bias=False)

    def _steps(self, o: DeltaOptions) -> int:
        """Decays of a token."""
        return o.value_heads

    def _kernels(self) -> list[mx.array]:
        """The convolutions' weights of queries, keys and values."""
        return [self[f"{name}_conv1d"].weight for name in "qkv"]

    def _convolve(self, mixed: mx.array, tail: mx.array | None) -> tuple[mx.array, mx.array]:
        return kernels.causal_conv(mixed, mx.concatenate(self._kernels(), axis=0), None, tail)

    def _project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        mixed = mx.concatenate([self[f"{name}_proj"](x) for name in "qkv"], axis=-1)
        steps = self._from(self.steps_name, x)
        return mixed, self._from("g", x), self._log_decay(steps), self.b_proj(x)

    def _from(self, name: str, x: mx.array) -> mx.array:
        """A projection of the input, or two with a narrow middle."""
        if f"{name}_a_proj" in self:
            return self[f"{name}_b_proj"](self[f"{name}_a_proj"](x))
        return self[f"{name}_proj"](x)


class ChannelDelta(SeparateDelta):
    """Decays for each channel of a key."""

    steps_name = "f"

    def _steps(self, o: DeltaOptions) -> int:
        return o.key_size

    def _log_decay(self, steps: mx.array) -> mx.array:
        """(B, L, H, D), float32."""
        steps = steps.astype(mx.float32) + self.dt_bias.astype(mx.float32)
        steps = mx.unflatten(steps, -1, (self._options.key_heads, -1))
        rate, bound = mx.exp(self.A_log.astype(mx.float32)).reshape(-1, 1), self._options.lower_bound
        return -rate * nn.softplus(steps) if bound is None else bound * mx.sigmoid(rate * steps)


def delta_state_dtype() -> mx.Dtype:
    """The dtype in which matrices are kept; read at each call, so that it can be set for a process at any time."""
    return mx.bfloat16 if os.environ.get("MLX_LM_GDN_STATE_BF16") == "1" else mx.float32


def unit_heads(x: mx.array) -> mx.array:
    """x / sqrt(sum of squares + 1e-6) over the last axis, float32."""
    dim = x.shape[-1]
    return kernels.rms_norm(x.astype(mx.float32), None, _UNIT_EPS / dim) * dim**-0.5
