"""A growing tensor along the token axis, plain or packed by `mx.quantize`: the storage under every attention state.

Growth is geometric, so appending n tokens one by one copies O(n) in all. This module does not know what the tokens
mean or which of them are visible.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ..errors import UnsupportedError
from ..kernels import QuantizedTensor, fused

__all__ = ["TokenBuffer", "fitting_group_size"]

_ROOM = 64  # tokens free after an append
_STEP = 256  # tokens; the smallest growth, which is also a prefix-cache block


def fitting_group_size(dim: int, group_size: int) -> int:
    """The largest quantization group of at most `group_size` that divides `dim`; UnsupportedError if there is none."""
    for group in (128, 64, 32):
        if group <= group_size and dim % group == 0:
            return group
    raise UnsupportedError(
        f"A head size of {dim} cannot be quantized: it is not a multiple of 32. Run without --kv-bits."
    )


class TokenBuffer:
    """Tokens (B, H, n, D) in arrays of capacity >= n.

    A `steady` buffer is one that is cut to a window again and again: it grows by small steps only.
    """

    def __init__(self, bits: int | None = None, group_size: int = 64, *, steady: bool = False):
        self.bits = bits
        self.group_size = group_size
        self.steady = steady
        self.expected = 0  # tokens in the end, as far as somebody knows
        self.length = 0
        self._arrays: list[mx.array] = []  # [data] or [packed, scales, biases], each (B, H, capacity, ...)
        self._store: Any = None  # while kernels write the data in place, it is here and not in _arrays
        self._written: mx.array | None = None  # the node that wrote last

    @property
    def _parts(self) -> list[mx.array]:
        if self._store is not None:
            if self._written is not None:
                mx.eval(self._written)
            self._arrays, self._store, self._written = [self._store.array()], None, None
        return self._arrays

    @_parts.setter
    def _parts(self, parts: list[mx.array]) -> None:
        self._arrays, self._store, self._written = parts, None, None

    @property
    def capacity(self) -> int:
        if self._store is not None:
            return self._store.capacity
        return self._arrays[0].shape[2] if self._arrays else 0

    @property
    def nbytes(self) -> int:
        return sum(p.nbytes for p in self._arrays) if self._store is None else self._store.nbytes

    @property
    def held(self) -> list[mx.array]:
        """The arrays held, slack included; while kernels write them in place, the node that wrote last."""
        if self._store is not None:
            return [] if self._written is None else [self._written]
        return self._arrays

    def lacking(self, shape: tuple[int, int, int, int], dtype: mx.Dtype) -> int:
        """Bytes of the memory that `writable` would allocate."""
        end = self.length + shape[2]
        if self._arrays or end <= self.capacity:
            return 0
        return shape[0] * shape[1] * self._capacity_for(end) * shape[3] * dtype.size

    def writable(self, shape: tuple[int, int, int, int], dtype: mx.Dtype, memory: Any = None) -> Any:
        """The tokens as memory with room for (B, H, L, D) more, for kernels that write in place; `wrote` follows.

        Reading the buffer in any other way takes the memory back and waits for what was written. New memory is part of
        `memory` where it fits there.
        """
        end = self.length + shape[2]
        store = self._store
        if store is None:
            store = self._adopt((*shape[:2], self._capacity_for(end), shape[3]), dtype, memory)
        if end > store.capacity:
            if self._written is not None:
                mx.eval(self._written)
            store.grow(self._capacity_for(end), self.length, memory)
        return store

    def wrote(self, tokens: int, node: mx.array) -> None:
        """Counts `tokens` that `node` writes when it is evaluated."""
        self.length += tokens
        self._written = node

    def _adopt(self, shape: tuple[int, ...], dtype: mx.Dtype, memory: Any) -> Any:
        if self._arrays:
            (array,) = self._arrays
            mx.eval(array)
            self._arrays = []
            self._store = fused.adopt_tokens(array)
        else:
            self._store = fused.allocate_tokens(shape, dtype, memory)
        return self._store

    @property
    def parts(self) -> list[mx.array]:
        """The valid part of each array held, (B, H, length, ...)."""
        return [p[:, :, : self.length] for p in self._parts]

    def append(self, x: mx.array) -> None:
        """Writes x (B, H, L, D) after the last token."""
        parts = self._encode(x)
        end = self.length + parts[0].shape[2]
        if end > self.capacity:
            self._grow(parts, end)
        for held, new in zip(self._parts, parts, strict=True):
            held[:, :, self.length : end] = new
        self.length = end

    def fill(self, pages: Sequence[list[mx.array]]) -> None:
        """Makes an empty buffer hold consecutive tokens that are encoded already, (B, H, L, ...) each, in one copy."""
        end = sum(page[0].shape[2] for page in pages)
        room = self._capacity_for(end + 1) - end
        self._parts = [
            mx.concatenate([*held, mx.zeros((*held[0].shape[:2], room, *held[0].shape[3:]), held[0].dtype)], axis=2)
            for held in zip(*pages, strict=True)
        ]
        self.length = end

    def view(self, start: int = 0) -> mx.array | QuantizedTensor:
        """Tokens from `start` on."""
        if self.bits is None:
            return self._parts[0][:, :, start : self.length]
        packed, scales, biases = (p[:, :, start : self.length] for p in self._parts)
        return QuantizedTensor(packed, scales, biases, self.group_size, self.bits)

    def keep_only(self, head: int, tail: int) -> "TokenBuffer":
        """A new buffer with the first `head` and the last `tail` tokens; this one is left as it is."""
        new = TokenBuffer(self.bits, self.group_size, steady=self.steady)
        start = self.length - tail
        if head == 0 or start <= head:
            new._parts = [p[:, :, (0 if start <= head else start) : self.length] for p in self._parts]
        else:
            new._parts = [mx.concatenate([p[:, :, :head], p[:, :, start : self.length]], axis=2) for p in self._parts]
        new.length = min(self.length, head + tail)
        return new

    def select(self, indices: mx.array) -> "TokenBuffer":
        """A new buffer with the tokens at `indices` (n,), in that order."""
        new = TokenBuffer(self.bits, self.group_size, steady=self.steady)
        new._parts = [mx.take(p, indices, axis=2) for p in self._parts]
        new.length = indices.shape[0]
        return new

    def quantized(self, bits: int, group_size: int) -> "TokenBuffer":
        """A new buffer with the same tokens packed to `bits`."""
        new = TokenBuffer(bits, group_size, steady=self.steady)
        if self.length:
            data = self.view()
            new.append(data if isinstance(data, mx.array) else data.dequantize())
        return new

    def copy(self) -> "TokenBuffer":
        new = TokenBuffer(self.bits, self.group_size, steady=self.steady)
        new._parts = self.parts  # slices share memory; the first write to either side copies
        new.length = self.length
        return new

    @classmethod
    def from_parts(cls, parts: list[mx.array], bits: int | None, group_size: int) -> "TokenBuffer":
        new = cls(bits, group_size)
        new._parts = list(parts)
        new.length = parts[0].shape[2] if parts else 0
        return new

    def _encode(self, x: mx.array) -> list[mx.array]:
        if self.bits is None:
            return [x]
        self.group_size = fitting_group_size(x.shape[-1], self.group_size)
        return list(mx.quantize(x, group_size=self.group_size, bits=self.bits))

    def _grow(self, parts: list[mx.array], needed: int) -> None:
        capacity = self._capacity_for(needed)
        grown = []
        for i, new in enumerate(parts):
            room = mx.zeros((*new.shape[:2], capacity - self.length, *new.shape[3:]), new.dtype)
            grown.append(mx.concatenate([self._parts[i][:, :, : self.length], room], axis=2) if self._parts else room)
        self._parts = grown

    def _capacity_for(self, needed: int) -> int:
        # An eighth of slack keeps appends amortized O(1) and measured bytes near the declared ones. A prompt gets room
        # for the first tokens of its answer: one of a whole number of steps would be copied by the very next token.
        # Up to half as many tokens again where they are expected: fewer copies, and nothing is left over in the end.
        def whole(tokens: int, step: int) -> int:
            return -(-tokens // step) * step

        if self.steady:
            return whole(needed, _ROOM)
        likely = min(self.expected, needed + max(needed // 2, _STEP))
        least = max(whole(max(needed, self.length + self.length // 8), _STEP), whole(needed + _ROOM, _ROOM))
        return max(least, whole(likely, _ROOM))
