"""RWKV-4: an exponentially fading average of values in place of attention. Source: https://arxiv.org/abs/2305.13048.

`rescale_every` halves activations so that float16 does not overflow; here it is not needed, and it changes results
only through the norms' epsilon.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..nn import LayerNorm, Linear
from ..state import ArraySlot, LayerState, RecurrentSpec, StateSpec, gather_slot, scatter_slots
from .parts import CausalLM, LanguageArgs, ModelNames, PassingBackbone

_LEAST = -1e38  # the exponent of an empty average


class ModelArgs(LanguageArgs):
    positive = ("attention_hidden_size",)
    attention_hidden_size: int | None = None
    intermediate_size: int | None = None
    layer_norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        self.intermediate_size = self.intermediate_size or 4 * self.hidden_size
        self.attention_hidden_size = self.attention_hidden_size or self.hidden_size


def shifted(x: mx.array, last: mx.array | None) -> mx.array:
    """x (B, L, D), one step later: the first is `last` (B, D), or zeros."""
    first = mx.zeros_like(x[:, :1]) if last is None else last[:, None].astype(x.dtype)
    return mx.concatenate([first, x[:, :-1]], axis=1)


def fading_average(
    keys: mx.array, values: mx.array, decay: mx.array, bonus: mx.array, state: mx.array | None
) -> tuple[mx.array, mx.array]:
    """Averages of all values so far, weighted by exp(key + age*decay), the present one's by exp(key + bonus).

    keys and values (B, L, D), decay (D,) negative, bonus (D,), state (B, 3, D): the sum of weighted values, the sum
    of weights, and the exponent that both are relative to; None for nothing yet. Returns the averages (B, L, D),
    float32, and the next state. Runs in log2(L) rounds of doubling spans.
    """
    keys, values = keys.astype(mx.float32), values.astype(mx.float32)
    if state is None:
        zeros = mx.zeros((keys.shape[0], 2, keys.shape[2]), mx.float32)
        state = mx.concatenate([zeros, mx.full_like(zeros[:, :1], _LEAST)], axis=1)
    start = [state[:, i : i + 1] for i in range(3)]
    total, weight, top = (
        mx.concatenate([first, rest], axis=1)
        for first, rest in zip(start, (values, mx.ones_like(keys), keys), strict=True)
    )
    span = 1
    while span < top.shape[1]:
        old, new = top[:, :-span] + decay * span, top[:, span:]
        both = mx.maximum(old, new)
        old, new = mx.exp(old - both), mx.exp(new - both)
        total, weight, top = (
            mx.concatenate([total[:, :span], total[:, :-span] * old + total[:, span:] * new], axis=1),
            mx.concatenate([weight[:, :span], weight[:, :-span] * old + weight[:, span:] * new], axis=1),
            mx.concatenate([top[:, :span], both], axis=1),
        )
        span *= 2
    here = keys + bonus
    both = mx.maximum(top[:, :-1], here)
    old, new = mx.exp(top[:, :-1] - both), mx.exp(here - both)
    average = (total[:, :-1] * old + values * new) / (weight[:, :-1] * old + new)
    return average, mx.stack([total[:, -1], weight[:, -1], top[:, -1]], axis=1)


class Mixing(nn.Module):
    """Projections, named with their sizes, of mixtures of the input (B, L, D) and the input before it."""

    def __init__(self, hidden_size: int, **sizes: int):
        super().__init__()
        for name, size in sizes.items():
            self[f"time_mix_{name}"] = mx.ones((1, 1, hidden_size))
            self[name] = Linear(hidden_size, size, bias=False)

    def _mixed(self, x: mx.array, last: mx.array | None, *names: str) -> list[mx.array]:
        before = shifted(x, last)
        return [self[name](before + (x - before) * self[f"time_mix_{name}"]) for name in names]


class TimeMix(Mixing):
    """x (B, L, D), the input before it (B, D) and the averages' state -> (B, L, D) and the next state."""

    def __init__(self, hidden_size: int, inner: int):
        super().__init__(hidden_size, key=inner, value=inner, receptance=inner)
        self.time_decay, self.time_first = mx.zeros((inner,)), mx.zeros((inner,))
        self.output = Linear(inner, hidden_size, bias=False)

    def slot(self) -> ArraySlot:
        """The averages."""
        return ArraySlot((3, self.time_decay.shape[0]), mx.float32)

    def __call__(
        self, x: mx.array, last: mx.array | None, averages: mx.array | None, passed: None
    ) -> tuple[mx.array, mx.array, None]:
        keys, values, receptance = self._mixed(x, last, "key", "value", "receptance")
        decay = -mx.exp(self.time_decay.astype(mx.float32))
        y, averages = fading_average(keys, values, decay, self.time_first.astype(mx.float32), averages)
        return self.output(mx.sigmoid(receptance) * y.astype(x.dtype)), averages, None


class ChannelMix(Mixing):
    """x (B, L, D) and the input before it (B, D) -> (B, L, D)."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__(hidden_size, key=intermediate_size, receptance=hidden_size)
        self.value = Linear(intermediate_size, hidden_size, bias=False)

    def __call__(self, x: mx.array, last: mx.array | None) -> mx.array:
        hidden, receptance = self._mixed(x, last, "key", "receptance")
        return mx.sigmoid(receptance) * self.value(kernels.activation(hidden, "relu2"))


class ShiftedLayer(nn.Module):
    """x + mixer(norm(x)), then x + feed_forward(norm(x)); both look one step back. The first layer norms its input.

    The mixer's `slot` is its memory, and `mixer(x, last, memory, passed)` gives y, the next memory and what the next
    layer gets as `passed`.
    """

    part_names = "attention", "feed_forward"
    norm_names = "pre_ln", "ln1", "ln2"

    def __init__(self, index: int, width: int, parts: tuple[nn.Module, nn.Module], norm: Callable[[], nn.Module]):
        super().__init__()
        self._width = width
        for name in self.norm_names[index > 0 :]:
            self[name] = norm()
        for name, part in zip(self.part_names, parts, strict=True):
            self[name] = part

    def state_spec(self) -> StateSpec:
        """What the layer keeps for a sequence: the last input of both parts and the mixer's memory."""
        last = ArraySlot((self._width,))
        return RecurrentSpec((last, self[self.part_names[0]].slot(), last))

    def pass_on(self, x: mx.array, state: LayerState, passed: Any) -> tuple[mx.array, Any]:
        (mixer, feed_forward), (before, first, second) = self.part_names, self.norm_names
        x = self[before](x) if before in self else x
        mixed = self[first](x)
        y, memory, passed = self[mixer](mixed, gather_slot(state, 0), gather_slot(state, 1), passed)
        x = x + y
        fed = self[second](x)
        x = x + self[feed_forward](fed, gather_slot(state, 2))
        scatter_slots(state, [mixed[:, -1], memory, fed[:, -1]], x.shape[1])
        return x, passed


class Model(CausalLM):
    names = ModelNames("rwkv", "embeddings", "blocks", "ln_out", "head")
    backbone_type = PassingBackbone

    def layer(self, args: Any, index: int) -> ShiftedLayer:
        width = args.hidden_size
        parts = TimeMix(width, args.attention_hidden_size), ChannelMix(width, args.intermediate_size)
        return ShiftedLayer(index, width, parts, lambda: LayerNorm(width, args.layer_norm_epsilon))

    def final_norm(self, args: Any) -> nn.Module:
        return LayerNorm(args.hidden_size, 1e-5)
