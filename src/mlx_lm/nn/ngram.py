"""What a table knows of the last few tokens, added to a layer's streams.

Each n-gram of token ids is hashed by several heads into one wide table; its rows, gated by how well they fit the
streams, pass a convolution over every few tokens. An end-of-text token hides what is before it. Source: Qwen4-Exp,
https://huggingface.co/Qwen; the idea is Engram's, https://arxiv.org/abs/2601.07372.
"""

from dataclasses import dataclass
from itertools import count, islice
from math import isqrt

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..state import ArraySlot, LayerState, RecurrentSpec, StateSpec, scatter_slots
from .conv import CausalConv, after_tail, tailed
from .hyper import StreamNorm
from .linear import Embedding, Linear

__all__ = ["Engram", "HashOptions", "NgramMemory", "ngram_hashes", "prime_sizes"]

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class HashOptions:
    """How n-grams become rows of a table.

    Attributes:
        sizes: rows of each head: of those for 2 tokens, then for 3, ...; a head's rows follow the one's before it.
        multipliers: odd factors for the tokens of an n-gram, from the latest back.
        rows, width: of the table.
        hidden: the id that hides itself and what is before it.
    """

    sizes: tuple[int, ...]
    multipliers: tuple[int, ...]
    rows: int
    width: int
    hidden: int


class NgramTable(nn.Module):
    """Token ids (B, L + size - 1), of which the first are context -> (B, L, heads * width).

    `fill` is the id in the place of those that are hidden.
    """

    def __init__(self, options: HashOptions):
        super().__init__()
        self._options = options
        self.ngram_embedding = Embedding(options.rows, options.width)

    def __call__(self, ids: mx.array, fill: int | mx.array) -> mx.array:
        o = self._options
        size = len(o.multipliers)
        heads = len(o.sizes) // (size - 1)  # for each length of n-gram
        length = ids.shape[1] - size + 1
        ids = ids.astype(mx.int64)
        mixed, known, rows, first = mx.array(0, mx.int64), mx.array(True), [], 0
        for back, multiplier in enumerate(o.multipliers):
            some = ids[:, size - 1 - back :][:, :length]
            known = known & (some != o.hidden) if back else known
            mixed = mixed ^ (mx.where(known, some, fill) * mx.array(multiplier, mx.int64))
            for modulus in o.sizes[max(back - 1, 0) * heads : back * heads]:
                rows.append(mixed % mx.array(modulus, mx.int64) + first)
                first += modulus
        return self.ngram_embedding(mx.stack(rows, axis=-1)).flatten(2)


class NgramMemory(nn.Module):
    """What is added to streams (B, L, N, D) of tokens `ids` (B, L); the hidden id is that of the end of a text."""

    def __init__(self, streams: int, hidden_size: int, hashes: HashOptions, kernel: int, eps: float):
        super().__init__()
        self._size, self._end = len(hashes.multipliers), hashes.hidden
        dims = len(hashes.sizes) * hashes.width
        self.ple_embedding = NgramTable(hashes)
        self.key_proj = Linear(dims, streams * hidden_size, bias=False)
        self.value_proj = Linear(dims, hidden_size, bias=False)
        for name in ("norm_key", "norm_query", "norm_conv"):
            self[name] = StreamNorm(streams, hidden_size, eps)
        self.conv1d = CausalConv(streams * hidden_size, kernel, bias=False)

    def state_spec(self) -> StateSpec:
        """The convolution's last inputs, and the last token ids xor the end's: zeros are ends."""
        channels, kernel, _ = self.conv1d.weight.shape
        tail = ArraySlot(((kernel - 1) * self._size, channels))
        return RecurrentSpec((tail, ArraySlot((self._size - 1,), mx.int32)))

    def __call__(self, x: mx.array, ids: mx.array, state: LayerState = None) -> mx.array:
        size, kernel, length = self._size, self.conv1d.weight.shape[1], ids.shape[1]
        history = tailed(ids.astype(mx.int32) ^ self._end, size - 1, state, 1)
        found = self.ple_embedding(history ^ self._end, self._end)
        keys = self.norm_key(self.key_proj(found).reshape(x.shape))
        fit = (keys * self.norm_query(x)).sum(axis=-1, keepdims=True) * x.shape[-1] ** -0.5
        fit = mx.sqrt(mx.maximum(mx.abs(fit), 1e-6)) * mx.sign(fit)
        values = mx.sigmoid(fit) * self.value_proj(found)[:, :, None]
        inputs = tailed(self.norm_conv(values).flatten(2), (kernel - 1) * size, state)
        spread = [inputs[:, i * size :][:, :length] * self.conv1d.weight[:, i, 0] for i in range(kernel)]
        scatter_slots(state, [inputs[:, length:], history[:, length:]], length)
        return values + kernels.activation(mx.stack(spread).sum(axis=0), "silu").reshape(values.shape)


class Engram(nn.Module):
    """What is added to streams (B, L, N, D) of tokens `ids` (B, L): a value, gated by how well its key fits each.

    Id `fill` stands before the start. Source: https://arxiv.org/abs/2601.07372; as in DeepSeek-V4.1, there is no
    convolution.
    """

    def __init__(self, streams: int, hidden_size: int, hashes: HashOptions, eps: float):
        super().__init__()
        self._context, self._eps = len(hashes.multipliers) - 1, eps
        self.table = NgramTable(hashes)
        self.wkv = Linear(len(hashes.sizes) * hashes.width, (streams + 1) * hidden_size, bias=False)
        self.q_weight, self.k_weight = mx.ones((streams, hidden_size)), mx.ones((streams, hidden_size))

    def state_spec(self) -> StateSpec:
        """The last token ids plus 1: zeros are before the start."""
        return RecurrentSpec((ArraySlot((self._context,), mx.int32),))

    def __call__(self, x: mx.array, ids: mx.array, fill: mx.array, state: LayerState = None) -> mx.array:
        streams, size = x.shape[2:]
        history = after_tail(ids.astype(mx.int32) + 1, self._context, state)
        keys, values = mx.split(self.wkv(self.table(history - 1, fill).astype(x.dtype)), [streams * size], axis=-1)
        keys, queries = (y.astype(mx.float32) for y in (mx.unflatten(keys, -1, (streams, size)), x))
        weight = self.q_weight.astype(mx.float32) * self.k_weight.astype(mx.float32)
        keys, queries = (kernels.rms_norm(y, None, self._eps) for y in (keys, queries))
        fit = (queries * weight * keys).sum(axis=-1, keepdims=True) * size**-0.5
        root = mx.sqrt(mx.maximum(mx.abs(fit), 1e-6))
        return (mx.sigmoid(mx.where(fit < 0, -root, root)) * values.astype(mx.float32)[:, :, None]).astype(x.dtype)


def prime_sizes(first: int, heads: int, order: int) -> tuple[int, ...]:
    """`heads` consecutive primes from `first` on, after those of the `order` tables before."""
    numbers = (n for n in count(max(first, 2)) if n == 2 or n % 2)
    primes = (n for n in numbers if all(n % divisor for divisor in range(3, isqrt(n) + 1, 2)))
    return tuple(islice(primes, order * heads, (order + 1) * heads))


def ngram_hashes(
    size: int, heads: int, *, rows: int, pad: int, dims: int, end: int, vocab_size: int, seed: int, order: int
) -> HashOptions:
    """How n-grams of up to `size` tokens are hashed by `heads` heads each, to rows of `dims` features together.

    Each head has a prime number of rows of at least `rows`; all rows together are padded to a multiple of `pad`.
    Hashes differ by `seed` and by `order`, which of the model's tables this is; no product with an id is over 63 bits.
    """
    sizes = prime_sizes(rows, (size - 1) * heads, order)
    most = max(1, ((1 << 63) - 1) // vocab_size // 2)
    seeds = (seed + 10007 * order + 0x9E3779B97F4A7C15 * (i + 1) for i in range(size))
    multipliers = tuple(2 * (_splitmix(seed) % most) + 1 for seed in seeds)
    return HashOptions(sizes, multipliers, -(-sum(sizes) // pad) * pad, dims // len(sizes), end)


def _splitmix(value: int) -> int:
    """The finalizer of splitmix64, http://xoshiro.di.unimi.it/splitmix64.c, after its step."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
