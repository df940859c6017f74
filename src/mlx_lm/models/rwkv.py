"""RWKV-4: an exponentially fading average of values in place of attention. Source: https://arxiv.org/abs/2305.13048.

`rescale_every` halves activations so that float16 does not overflow; here it is not needed, and it changes results
only through the norms' epsilon.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import ConfigError
from ..nn import LayerNorm, Linear
from ..state import ArraySlot, LayerState, RecurrentSpec, StateSpec, gather_slot, scatter_slots
from .base import CausalLM, ModelNames
from .config import BaseModelArgs

_LEAST = -1e38  # the exponent of an empty average


class ModelArgs(BaseModelArgs):
    hidden_size: int
    num_hidden_layers: int
    vocab_size: int
    attention_hidden_size: int | None = None
    intermediate_size: int | None = None
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        self.intermediate_size = self.intermediate_size or 4 * self.hidden_size
        if self.attention_hidden_size is None:
            self.attention_hidden_size = self.hidden_size
        if not 1 <= self.attention_hidden_size < 2**31:
            raise ConfigError(f"config.json: attention_hidden_size={self.attention_hidden_size} is not possible.")


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


class TimeMix(nn.Module):
    """x (B, L, D), the input before it (B, D) and the averages' state -> (B, L, D) and the next state."""

    def __init__(self, hidden_size: int, inner: int):
        super().__init__()
        self.time_decay = mx.zeros((inner,))
        self.time_first = mx.zeros((inner,))
        for name in ("key", "value", "receptance"):
            self[f"time_mix_{name}"] = mx.ones((1, 1, hidden_size))
            self[name] = Linear(hidden_size, inner, bias=False)
        self.output = Linear(inner, hidden_size, bias=False)

    def __call__(self, x: mx.array, last: mx.array | None, averages: mx.array | None) -> tuple[mx.array, mx.array]:
        before = shifted(x, last)
        keys, values, receptance = (
            self[name](before + (x - before) * self[f"time_mix_{name}"]) for name in ("key", "value", "receptance")
        )
        decay = -mx.exp(self.time_decay.astype(mx.float32))
        y, averages = fading_average(keys, values, decay, self.time_first.astype(mx.float32), averages)
        return self.output(mx.sigmoid(receptance) * y.astype(x.dtype)), averages


class ChannelMix(nn.Module):
    """x (B, L, D) and the input before it (B, D) -> (B, L, D)."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        for name in ("key", "receptance"):
            self[f"time_mix_{name}"] = mx.ones((1, 1, hidden_size))
        self.key = Linear(hidden_size, intermediate_size, bias=False)
        self.receptance = Linear(hidden_size, hidden_size, bias=False)
        self.value = Linear(intermediate_size, hidden_size, bias=False)

    def __call__(self, x: mx.array, last: mx.array | None) -> mx.array:
        before = shifted(x, last)
        hidden = mx.square(nn.relu(self.key(before + (x - before) * self["time_mix_key"])))
        receptance = self.receptance(before + (x - before) * self["time_mix_receptance"])
        return mx.sigmoid(receptance) * self.value(hidden)


class Layer(nn.Module):
    """x + attention(ln1(x)), then x + feed_forward(ln2(x)); both look one step back."""

    def __init__(self, args: ModelArgs, index: int):
        super().__init__()
        assert args.attention_hidden_size is not None and args.intermediate_size is not None
        self._sizes = args.hidden_size, args.attention_hidden_size
        for name in ("pre_ln", "ln1", "ln2")[index > 0 :]:
            self[name] = LayerNorm(args.hidden_size, args.layer_norm_epsilon)
        self.attention = TimeMix(*self._sizes)
        self.feed_forward = ChannelMix(args.hidden_size, args.intermediate_size)

    def state_spec(self) -> StateSpec:
        """What the layer keeps for a sequence: the last input of both parts and the averages."""
        hidden, inner = self._sizes
        return RecurrentSpec((ArraySlot((hidden,)), ArraySlot((hidden,)), ArraySlot((3, inner), mx.float32)))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        if "pre_ln" in self:
            x = self["pre_ln"](x)
        first = self["ln1"](x)
        y, averages = self.attention(first, gather_slot(state, 0), gather_slot(state, 2))
        x = x + y
        second = self["ln2"](x)
        x = x + self.feed_forward(second, gather_slot(state, 1))
        scatter_slots(state, [first[:, -1], second[:, -1], averages], x.shape[1])
        return x


class Model(CausalLM):
    names = ModelNames("rwkv", "embeddings", "blocks", "ln_out", "head")

    def layer(self, args: Any, index: int) -> Layer:
        return Layer(args, index)

    def final_norm(self, args: Any) -> nn.Module:
        return LayerNorm(args.hidden_size, 1e-5)
