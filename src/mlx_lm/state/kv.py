"""Attention states: keys and values of every token, of a window, or of a limited budget; plain or quantized.

One class does all of it, so that quantization works on every attention kind (windows, sinks and latents too); the
names that mlx-lm's users import are its constructors. Keys and values are two tensors (B, H, n, D) of unlike D; a
latent layer puts its latents in the first and its shared rotary keys in the second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..errors import CacheMismatchError, CacheStateError
from ..kernels import KVView, QuantizedTensor, visible
from .base import PLAIN_KV, KVOptions, State, StateSpec
from .buffer import TokenBuffer, fitting_group_size

__all__ = ["AttentionState", "KVCache", "KVSpec", "QuantizedKVCache", "RotatingKVCache"]

_SLACK = 128  # tokens past the window that are held before the oldest are dropped: moves and short rewinds get cheap


class AttentionState(State):
    """Keys and values of `offset` tokens, of which the last `window` (and the first `keep`) are visible.

    Args:
        window: how many of the latest positions a query sees, itself included; None for all.
        keep: first positions that stay visible for ever.
        bits: pack to this many bits (2, 3, 4, 5, 6 or 8), None for plain.
        group_size: quantization group, reduced to what divides the head size.
        start: tokens after which packing begins.
        dtype: of plain keys and values; None keeps them as they are computed.
    """

    def __init__(
        self,
        *,
        window: int | None = None,
        keep: int = 0,
        bits: int | None = None,
        group_size: int = 64,
        start: int = 0,
        dtype: str | None = None,
    ):
        if bits is not None and bits not in (2, 3, 4, 5, 6, 8):
            raise ValueError(f"kv_bits must be 2, 3, 4, 5, 6 or 8, not {bits}.")
        if window is not None and window < 1:
            raise ValueError(f"A window must hold at least 1 token, not {window}.")
        self.window = window
        self.keep = keep
        self.bits = bits
        self.group_size = group_size
        self.start = start
        self.dtype = dtype
        first = bits if start <= 0 else None
        self._keys, self._values = (TokenBuffer(first, group_size, steady=window is not None) for _ in range(2))
        self._offset = 0

    @property
    def offset(self) -> int:
        return self._offset

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes

    def size(self) -> int:
        return self._keys.length

    def update(self, keys: mx.array, values: mx.array) -> KVView:
        """Appends L tokens, keys (B, Hkv, L, Dk) and values (B, Hkv, L, Dv), and returns what they may look at."""
        if self.bits is not None and self._keys.bits is None and self._offset + keys.shape[2] > self.start:
            self.quantize(self.bits, self.group_size)
        if self.dtype is not None and self._keys.bits is None:
            keys, values = keys.astype(getattr(mx, self.dtype)), values.astype(getattr(mx, self.dtype))
        self._drop_old(keys.shape[2])
        self._keys.append(keys)
        self._values.append(values)
        self._offset += keys.shape[2]
        return self.view()

    def expect(self, tokens: int) -> None:
        self._keys.expected = self._values.expected = tokens

    def lacking(self, shape: tuple[int, int, int, int], dtype: mx.Dtype) -> int:
        """Bytes of the memory that `writable` would allocate, about."""
        dtype = dtype if self.dtype is None else getattr(mx, self.dtype)
        return self._keys.lacking(shape, dtype) + self._values.lacking(shape, dtype)

    def writable(
        self, shape: tuple[int, int, int, int], dtype: mx.Dtype, memory: Any = None
    ) -> tuple[Any, Any, list[mx.array]]:
        """Memory for keys and values (B, Hkv, L, D) that kernels write in place, and the nodes that wrote last.

        For plain states; `wrote` must follow at once. New memory is part of `memory` where it fits there.
        """
        dtype = dtype if self.dtype is None else getattr(mx, self.dtype)
        self._drop_old(shape[2])
        keys, values = self._keys.writable(shape, dtype, memory), self._values.writable(shape, dtype, memory)
        return keys, values, [n for n in (self._keys._written, self._values._written) if n is not None]

    def wrote(self, tokens: int, node: mx.array) -> None:
        """Counts `tokens` that `node` writes when it is evaluated."""
        self._keys.wrote(tokens, node)
        self._values.wrote(tokens, node)
        self._offset += tokens

    def view(self) -> KVView:
        """All tokens held."""
        return KVView(self._keys.view(), self._values.view(), self.window, self.keep)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """As `update`, giving the two tensors: arrays, or (packed, scales, biases) tuples when quantized."""
        view = self.update(keys, values)
        return _plain(view.keys), _plain(view.values)

    def keys_and_values(self) -> tuple[Any, Any]:
        """The tokens held, as `update_and_fetch` gives them."""
        view = self.view()
        return _plain(view.keys), _plain(view.values)

    def quantize(self, bits: int, group_size: int = 64) -> None:
        """Packs what is held and all that follows; does nothing when it is packed to these bits already."""
        self.bits, self.group_size = bits, group_size
        if self._keys.bits != bits:
            self._keys = self._keys.quantized(bits, group_size)
            self._values = self._values.quantized(bits, group_size)

    def quantize_after(self, bits: int, group_size: int, start: int) -> None:
        """Packs from the first update on that brings the state past `start` tokens."""
        if self.bits != bits:
            self.bits, self.group_size, self.start = bits, group_size, start

    def to_quantized(self, group_size: int = 64, bits: int = 4) -> "AttentionState":
        """A packed copy."""
        new = QuantizedKVCache(group_size, bits) if self.window is None else self.copy()
        new._offset = self._offset
        new._keys = self._keys.quantized(bits, group_size)
        new._values = self._values.quantized(bits, group_size)
        new.bits, new.group_size = bits, group_size
        return new

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> mx.array | str | None:
        """The mask for N further tokens in the form that models written for mlx-lm pass to attention."""
        window = self.window if window_size is None else window_size
        total = min(self._keys.length, (self.window or self._keys.length) + self.keep + _SLACK) + N
        if window is None and not return_array:
            return None if N == 1 else "causal"
        return visible(N, total, window, self.keep)

    def can_trim(self, n: int) -> bool:
        if n > self._offset:
            return False
        if self.window is None:
            return True
        held, wanted = self._keys.length - n, min(self._offset - n, self.window + self.keep - 1)
        return held >= wanted

    def _trim(self, n: int) -> None:
        self._keys.length -= n
        self._values.length -= n
        self._offset -= n

    def snapshot(self) -> Any:
        # Buffers grow in place behind the mark, and moving a window makes new buffers: naming them is enough.
        return self._keys, self._values, self._keys.length, self._offset

    def restore(self, mark: Any) -> None:
        keys, values, length, offset = mark
        if keys.length < length:
            raise CacheStateError("This snapshot is of another state, or the state was trimmed below it.")
        keys.length = values.length = length
        self._keys, self._values, self._offset = keys, values, offset

    def copy(self) -> "AttentionState":
        new = self._like()
        new._keys, new._values, new._offset = self._keys.copy(), self._values.copy(), self._offset
        return new

    def select(self, indices: mx.array) -> None:
        """Holds only the tokens at `indices` (n,), ascending, of those held; positions go on from `offset`."""
        self._keys, self._values = self._keys.select(indices), self._values.select(indices)

    def arrays(self) -> list[mx.array]:
        return [*self._keys.held, *self._values.held]

    def saved(self) -> tuple[dict[str, mx.array], dict[str, Any]]:
        arrays = {f"keys.{i}": p for i, p in enumerate(self._keys.parts)}
        arrays |= {f"values.{i}": p for i, p in enumerate(self._values.parts)}
        fields = {
            "offset": self._offset,
            "window": self.window,
            "keep": self.keep,
            "bits": self.bits,
            "group_size": self.group_size,
            "start": self.start,
            "dtype": self.dtype,
            "packed": self._keys.bits,
            "key_group_size": self._keys.group_size,
            "value_group_size": self._values.group_size,
        }
        return arrays, fields

    @classmethod
    def load(cls, arrays: dict[str, mx.array], fields: dict[str, Any]) -> "AttentionState":
        try:
            new = AttentionState.__new__(cls)
            AttentionState.__init__(
                new,
                window=fields["window"],
                keep=fields["keep"],
                bits=fields["bits"],
                group_size=fields["group_size"],
                start=fields["start"],
                dtype=fields["dtype"],
            )
            keys = [arrays[f"keys.{i}"] for i in range(sum(k.startswith("keys.") for k in arrays))]
            values = [arrays[f"values.{i}"] for i in range(sum(k.startswith("values.") for k in arrays))]
            new._keys = TokenBuffer.from_parts(keys, fields["packed"], fields["key_group_size"])
            new._values = TokenBuffer.from_parts(values, fields["packed"], fields["value_group_size"])
            new._keys.steady = new._values.steady = new.window is not None
            new._offset = int(fields["offset"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CacheMismatchError(f"The saved attention state is malformed: {error!r}.") from error
        expected = 0 if not keys else (1 if fields["packed"] is None else 3)
        lengths = {a.shape[2] for a in keys + values if a.ndim == 4}
        bad_rank = any(a.ndim != 4 for a in keys + values)
        if bad_rank or len(keys) != expected or len(values) != expected or len(lengths) > 1:
            raise CacheMismatchError("The saved attention state is malformed: its arrays do not belong together.")
        if not 0 <= new._keys.length <= new._offset:
            raise CacheMismatchError("The saved attention state is malformed: it holds more tokens than it has seen.")
        return new

    def page(self, start: int, end: int) -> tuple[dict[str, mx.array], dict[str, Any]]:
        """Tokens start..end of a state that holds all of them: arrays by name, and what `fill` needs to know."""
        arrays = {f"keys.{i}": p[:, :, start:end] for i, p in enumerate(self._keys.parts)}
        arrays |= {f"values.{i}": p[:, :, start:end] for i, p in enumerate(self._values.parts)}
        groups = [self._keys.group_size, self._values.group_size]
        return arrays, {"packed": self._keys.bits, "groups": groups, "tokens": end - start}

    def fill(self, pages: Sequence[dict[str, mx.array]], fields: Sequence[dict[str, Any]]) -> None:
        """Makes an empty state hold consecutive pages, the first from token 0 on.

        Pages from before the state was packed are packed now, as they would have been.
        """
        assert self.empty() and self.window is None
        packed, groups = fields[-1]["packed"], fields[-1]["groups"]
        for name, group in (("keys", groups[0]), ("values", groups[1])):
            whole, encoded = TokenBuffer(packed, group), []
            for arrays, page in zip(pages, fields, strict=True):
                parts = [arrays[f"{name}.{i}"] for i in range(1 if page["packed"] is None else 3)]
                if page["packed"] != packed:
                    parts = TokenBuffer.from_parts(parts, page["packed"], group).quantized(packed, group).parts
                encoded.append(parts)
            whole.fill(encoded)
            setattr(self, f"_{name}", whole)
        self._offset = sum(page["tokens"] for page in fields)

    def _like(self) -> "AttentionState":
        new = AttentionState.__new__(type(self))
        AttentionState.__init__(
            new,
            window=self.window,
            keep=self.keep,
            bits=self.bits,
            group_size=self.group_size,
            start=self.start,
            dtype=self.dtype,
        )
        return new

    def _drop_old(self, incoming: int) -> None:
        """Forgets what no later query can see, in moves of at least `_SLACK` tokens."""
        if self.window is None:
            return
        limit = self.keep + self.window - 1
        if self._keys.length <= limit or self._keys.length + incoming <= limit + _SLACK + 1:
            return
        tail = self.window - 1 + min(_SLACK // 2, self._keys.length - limit)
        self._keys = self._keys.keep_only(self.keep, tail)
        self._values = self._values.keep_only(self.keep, tail)


class KVCache(AttentionState):
    """Keys and values of all tokens."""

    def __init__(self) -> None:
        super().__init__()


class RotatingKVCache(AttentionState):
    """Keys and values of the last `max_size` tokens, of which the first `keep` are never dropped."""

    def __init__(self, max_size: int, keep: int = 0):
        if not 0 <= keep < max_size:
            raise ValueError(f"keep must be at least 0 and less than max_size; got keep={keep}, max_size={max_size}.")
        super().__init__(window=max_size - keep, keep=keep)

    @property
    def max_size(self) -> int:
        return (self.window or 0) + self.keep


class QuantizedKVCache(AttentionState):
    """Keys and values of all tokens, packed to `bits`."""

    def __init__(self, group_size: int = 64, bits: int = 8):
        super().__init__(bits=bits, group_size=group_size)


@dataclass(frozen=True)
class KVSpec(StateSpec):
    """Declared by attention layers: `num_kv_heads` keys of `key_dim` and values of `value_dim` for each token."""

    num_kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None
    latent: bool = False

    quantizable = True
    evictable = True

    @property
    def kind(self) -> str:  # type: ignore[override]
        return "latent" if self.latent else "full" if self.window is None else "rotating"

    @property
    def trimmable(self) -> bool:  # type: ignore[override]
        return self.window is None

    def create(self, options: KVOptions = PLAIN_KV) -> AttentionState:
        window, keep = self.window, 0
        if options.max_size is not None and (window is None or options.max_size < window):
            keep = min(options.keep, options.max_size // 2) if window is None else 0
            window = options.max_size - keep
        if options.bits is not None:
            for dim in (self.key_dim, self.value_dim):
                fitting_group_size(dim, options.group_size)
            return AttentionState(
                window=window, keep=keep, bits=options.bits, group_size=options.group_size, start=options.start
            )
        state = KVCache() if window is None else RotatingKVCache(window + keep, keep)
        state.dtype = options.dtype
        return state

    def mismatch(self, state: State) -> str | None:
        if not isinstance(state, AttentionState):
            return f"holds a {type(state).__name__}, not keys and values"
        if state.empty():
            return None
        held = [tuple(side.shape) for side in (state.view().keys, state.view().values)]
        wanted = [(self.num_kv_heads, dim) for dim in (self.key_dim, self.value_dim)]
        if [(shape[1], shape[3]) for shape in held] != wanted:
            return f"has keys and values of (heads, size) {[(s[1], s[3]) for s in held]}, not {wanted}"
        return None

    def max_tokens(self, options: KVOptions = PLAIN_KV) -> int | None:
        limits = [n for n in (self.window, options.max_size) if n is not None]
        return min(limits) + _SLACK if limits else None

    def bytes_per_token(self, dtype: mx.Dtype, options: KVOptions = PLAIN_KV) -> float:
        def width(dim: int) -> float:
            if options.bits is None:
                return dim * dtype.size
            group = fitting_group_size(dim, options.group_size)
            return dim * options.bits / 8 + 2 * dtype.size * dim / group

        return self.num_kv_heads * (width(self.key_dim) + width(self.value_dim))

    def bytes_fixed(self, dtype: mx.Dtype, options: KVOptions = PLAIN_KV) -> int:
        return 0


def _plain(x: mx.array | QuantizedTensor) -> Any:
    return x if isinstance(x, mx.array) else (x.packed, x.scales, x.biases)
