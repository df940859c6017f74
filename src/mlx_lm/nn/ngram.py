"""What a table knows of the last few tokens, added to a layer's streams.

Each n-gram of token ids is hashed by several heads into one wide table; its rows, gated by how well they fit the
streams, pass a convolution over every few tokens. An end-of-text token hides what is before it. Source: Qwen4-Exp,
https://huggingface.co/Qwen; the idea is Engram's, https://arxiv.org/abs/2601.07372.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..state import ArraySlot, LayerState, RecurrentSpec, StateSpec, gather_slot, scatter_slots
from .conv import CausalConv
from .hyper import StreamNorm
from .linear import Embedding, Linear

__all__ = ["NgramMemory", "NgramOptions"]

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class NgramOptions:
    """Sizes of one layer's memory.

    Attributes:
        size: tokens in the longest n-gram; `heads` hash each of 2..size tokens, each to a prime number of rows of
            at least `rows`; all rows together are padded to a multiple of `pad`.
        dims: of all heads' rows together.
        order: which of the model's memories this is; hashes differ by it and by `seed`.
        end: the id of the end of a text.
    """

    hidden_size: int
    streams: int
    vocab_size: int
    size: int
    heads: int
    rows: int
    pad: int
    dims: int
    kernel: int
    order: int
    seed: int
    end: int
    eps: float


class NgramTable(nn.Module):
    """Token ids (B, L + size - 1), of which the first are context -> (B, L, dims)."""

    def __init__(self, o: NgramOptions):
        super().__init__()
        heads = (o.size - 1) * o.heads
        primes = _primes(o.rows)
        for _ in range(o.order * heads):
            next(primes)
        self._options, self._multipliers = o, _multipliers(o)
        self._sizes = [next(primes) for _ in range(heads)]
        rows = -(-sum(self._sizes) // o.pad) * o.pad
        self.ngram_embedding = Embedding(rows, o.dims // heads)

    def __call__(self, ids: mx.array) -> mx.array:
        o, length = self._options, ids.shape[1] - self._options.size + 1
        ids = ids.astype(mx.int64)
        mixed, known, rows, first = mx.array(0, mx.int64), mx.array(True), [], 0
        for back, multiplier in enumerate(self._multipliers):
            some = ids[:, o.size - 1 - back :][:, :length]
            known = known & (some != o.end) if back else known
            mixed = mixed ^ (mx.where(known, some, o.end) * mx.array(multiplier, mx.int64))
            for size in self._sizes[max(back - 1, 0) * o.heads : back * o.heads]:
                rows.append(mixed % mx.array(size, mx.int64) + first)
                first += size
        return self.ngram_embedding(mx.stack(rows, axis=-1)).flatten(2)


class NgramMemory(nn.Module):
    """What is added to streams (B, L, N, D) of tokens `ids` (B, L)."""

    def __init__(self, options: NgramOptions):
        super().__init__()
        o = options
        self._options = o
        self.ple_embedding = NgramTable(o)
        self.key_proj = Linear(o.dims, o.streams * o.hidden_size, bias=False)
        self.value_proj = Linear(o.dims, o.hidden_size, bias=False)
        for name in ("norm_key", "norm_query", "norm_conv"):
            self[name] = StreamNorm(o.streams, o.hidden_size, o.eps)
        self.conv1d = CausalConv(o.streams * o.hidden_size, o.kernel, bias=False)

    def state_spec(self) -> StateSpec:
        """The convolution's last inputs, and the last token ids xor the end's: zeros are ends."""
        o = self._options
        tail = ArraySlot(((o.kernel - 1) * o.size, o.streams * o.hidden_size))
        return RecurrentSpec((tail, ArraySlot((o.size - 1,), mx.int32)))

    def __call__(self, x: mx.array, ids: mx.array, state: LayerState = None) -> mx.array:
        o, (batch, length) = self._options, ids.shape
        tail, before = gather_slot(state, 0), gather_slot(state, 1)
        before = mx.zeros((batch, o.size - 1), mx.int32) if before is None else before
        history = mx.concatenate([before, ids.astype(mx.int32) ^ o.end], axis=1)
        found = self.ple_embedding(history ^ o.end)
        keys = self.norm_key(self.key_proj(found).reshape(x.shape))
        fit = (keys * self.norm_query(x)).sum(axis=-1, keepdims=True) * o.hidden_size**-0.5
        fit = mx.sqrt(mx.maximum(mx.abs(fit), 1e-6)) * mx.sign(fit)
        values = mx.sigmoid(fit) * self.value_proj(found)[:, :, None]
        inputs = self.norm_conv(values).flatten(2)
        tail = mx.zeros((batch, (o.kernel - 1) * o.size, inputs.shape[-1]), inputs.dtype) if tail is None else tail
        inputs = mx.concatenate([tail.astype(inputs.dtype), inputs], axis=1)
        spread = [inputs[:, i * o.size :][:, :length] * self.conv1d.weight[:, i, 0] for i in range(o.kernel)]
        scatter_slots(state, [inputs[:, length:], history[:, length:]], length)
        return values + kernels.activation(mx.stack(spread).sum(axis=0), "silu").reshape(values.shape)


def _multipliers(o: NgramOptions) -> list[int]:
    """Odd factors for the tokens of an n-gram, from the latest back; no product with an id is over 63 bits."""
    most = max(1, ((1 << 63) - 1) // o.vocab_size // 2)
    seeds = (o.seed + 10007 * o.order + 0x9E3779B97F4A7C15 * (i + 1) for i in range(o.size))
    return [2 * (_splitmix(seed) % most) + 1 for seed in seeds]


def _splitmix(value: int) -> int:
    """The finalizer of splitmix64, http://xoshiro.di.unimi.it/splitmix64.c, after its step."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _primes(first: int) -> Iterator[int]:
    """The primes from `first` on."""
    while True:
        if first > 1 and (first == 2 or (first % 2 and all(first % d for d in range(3, isqrt(first) + 1, 2)))):
            yield first
        first += 1
