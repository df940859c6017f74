"""Depthwise causal convolutions and the gated short convolution that some families use in place of attention."""

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..state import ArraySlot, LayerState, RecurrentSpec, StateSpec, gather_slot, scatter_slots
from .linear import Linear

__all__ = ["CausalConv", "ShortConv", "after_tail", "tailed"]


def after_tail(x: mx.array, kept: int, state: LayerState) -> mx.array:
    """x (B, L, ...) after the `kept` inputs before it, zeros at the start: (B, kept + L, ...).

    The last `kept` of all become the one array of the state.
    """
    both = tailed(x, kept, state) if kept else x
    scatter_slots(state, [both[:, x.shape[1] :]] if kept else [], x.shape[1])
    return both


def tailed(x: mx.array, kept: int, state: LayerState, slot: int = 0) -> mx.array:
    """As `after_tail`, for array `slot` of a state that is written by the caller."""
    tail = gather_slot(state, slot)
    tail = mx.zeros((x.shape[0], kept, *x.shape[2:]), x.dtype) if tail is None else tail.astype(x.dtype)
    return mx.concatenate([tail, x], axis=1)


class CausalConv(nn.Module):
    """Depthwise causal convolution: weight (C, K, 1), bias (C,); x (B, L, C) and the K-1 inputs before it."""

    def __init__(self, channels: int, kernel: int, *, bias: bool):
        super().__init__()
        self.weight = mx.random.uniform(low=-(kernel**-0.5), high=kernel**-0.5, shape=(channels, kernel, 1))
        if bias:
            self.bias = mx.zeros((channels,))

    def slot(self) -> ArraySlot:
        """The state that the convolution needs."""
        channels, kernel, _ = self.weight.shape
        return ArraySlot((kernel - 1, channels))

    def __call__(self, x: mx.array, state: mx.array | None) -> tuple[mx.array, mx.array]:
        """y (B, L, C) and the next state (B, K-1, C)."""
        return kernels.causal_conv(x, self["weight"], self.get("bias"), state)

    def alone(self, x: mx.array, state: LayerState) -> mx.array:
        """y (B, L, C) with the layer's own state, of which the convolution is all."""
        y, tail = self(x, gather_slot(state, 0))
        scatter_slots(state, [tail], x.shape[1])
        return y


class ShortConv(nn.Module):
    """out(c * conv(b * x)) with b, c and x projected from the input (B, L, D); `bias` is on all three layers.

    Source: LFM2, https://arxiv.org/abs/2511.23404, section 2.
    """

    def __init__(self, hidden_size: int, kernel: int, *, bias: bool = False):
        super().__init__()
        self.in_proj = Linear(hidden_size, 3 * hidden_size, bias=bias)
        self.conv = CausalConv(hidden_size, kernel, bias=bias)
        self.out_proj = Linear(hidden_size, hidden_size, bias=bias)

    def state_spec(self) -> StateSpec:
        """What the layer keeps for a sequence."""
        return RecurrentSpec((self.conv.slot(),))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        b, c, x = mx.split(self.in_proj(x), 3, axis=-1)
        return self.out_proj(c * self.conv.alone(b * x, state))
