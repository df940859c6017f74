"""What a layer keeps for a sequence: the declaration (`StateSpec`) and the protocol (`State`).

A mixer declares its spec; caches, admission, prefix reuse, speculation and KV quantization read the declaration and
never look at the model. This module does not know any particular kind of state.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx

from ..errors import CacheStateError

__all__ = ["PLAIN_KV", "KVOptions", "State", "StateSpec", "dtype_name"]


def dtype_name(dtype: mx.Dtype) -> str:
    """The dtype's name in `mlx.core`: what is kept in objects that are copied or saved, which dtypes cannot be."""
    return str(dtype).rsplit(".", 1)[-1]


@dataclass(frozen=True)
class KVOptions:
    """How attention states are kept: packed to `bits` once `start` tokens are in; at most `max_size` tokens."""

    bits: int | None = None
    group_size: int = 64
    start: int = 0
    max_size: int | None = None
    keep: int = 4  # first tokens that a limited state never drops (https://arxiv.org/abs/2309.17453)
    dtype: str | None = None  # of plain keys and values ("float16", ...); None: as they are computed


PLAIN_KV = KVOptions()


class StateSpec(ABC):
    """A layer's declaration of what it keeps for one sequence."""

    kind: ClassVar[str]
    trimmable: ClassVar[bool]  # the last tokens can be taken back
    quantizable: ClassVar[bool]  # honours KVOptions.bits
    evictable: ClassVar[bool]  # single tokens can be dropped (SnapKV)
    snapshots: ClassVar[bool] = True  # every kind can be snapshotted and restored

    @abstractmethod
    def create(self, options: KVOptions = PLAIN_KV) -> "State":
        """A fresh, empty state."""

    @abstractmethod
    def bytes_per_token(self, dtype: mx.Dtype, options: KVOptions = PLAIN_KV) -> float:
        """Bytes that each further token adds, while the state grows."""

    @abstractmethod
    def bytes_fixed(self, dtype: mx.Dtype, options: KVOptions = PLAIN_KV) -> int:
        """Bytes that the state takes whatever its length."""

    def mismatch(self, state: "State") -> str | None:
        """Why `state` cannot be a state of this layer, or None when it can."""
        made = self.create()
        return None if isinstance(state, type(made)) else f"holds a {type(state).__name__}, not a {type(made).__name__}"

    def max_tokens(self, options: KVOptions = PLAIN_KV) -> int | None:
        """The number of tokens after which the state stops growing, or None."""
        return None

    def bytes(self, tokens: int, dtype: mx.Dtype, options: KVOptions = PLAIN_KV) -> int:
        """Bytes after `tokens` tokens."""
        limit = self.max_tokens(options)
        grown = tokens if limit is None else min(tokens, limit)
        return int(self.bytes_fixed(dtype, options) + grown * self.bytes_per_token(dtype, options))


class State(ABC):
    """What one layer keeps for one sequence (or for B sequences of equal length).

    Arrays inside are replaced, never shared: `copy()` gives an independent state, `snapshot()` a cheap mark to which
    `restore()` returns. A snapshot stays valid while the state only moves forward from it.
    """

    @property
    @abstractmethod
    def offset(self) -> int:
        """Number of tokens seen so far."""

    @abstractmethod
    def snapshot(self) -> Any:
        """A mark of the present, O(1)."""

    @abstractmethod
    def restore(self, mark: Any) -> None:
        """Goes back to a mark of this very state."""

    @abstractmethod
    def copy(self) -> "State":
        """An independent state with equal content; memory is shared until one of the two is written."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of the arrays that are held."""

    @abstractmethod
    def saved(self) -> tuple[dict[str, mx.array], dict[str, Any]]:
        """Arrays by name and JSON-able fields from which `load` makes an equal state."""

    @classmethod
    @abstractmethod
    def load(cls, arrays: dict[str, mx.array], fields: dict[str, Any]) -> "State":
        """The inverse of `saved`; raises CacheMismatchError for content that does not fit."""

    def become(self, other: "State") -> None:
        """Takes over the content of a state of the same class, which must not be used afterwards."""
        if type(other) is not type(self):
            raise CacheStateError(f"A {type(self).__name__} cannot become a {type(other).__name__}.")
        vars(self).clear()
        vars(self).update(vars(other))

    def expect(self, tokens: int) -> None:
        """Says how many tokens will have been seen in the end, about, so that memory grows in fewer steps."""
        return

    def size(self) -> int:
        """Number of tokens held (fewer than `offset` once a window has moved)."""
        return self.offset

    def empty(self) -> bool:
        """Whether no token has been seen."""
        return self.offset == 0

    def can_trim(self, n: int) -> bool:
        """Whether the last `n` tokens can be taken back with nothing lost."""
        return n == 0

    def is_trimmable(self) -> bool:
        """Whether every token so far can be taken back."""
        return self.can_trim(self.offset)

    def trim(self, n: int) -> int:
        """Takes back the last `n` tokens (at most all) and returns how many; CacheStateError if they are needed."""
        n = min(n, self.offset)
        if not self.can_trim(n):
            raise CacheStateError(
                f"{type(self).__name__} cannot take back {n} of {self.offset} tokens; use snapshot() and restore()."
            )
        self._trim(n)
        return n

    def _trim(self, n: int) -> None:
        """Takes back `n` tokens; called only when `can_trim(n)`, so a kind that cannot trim has nothing to do."""
        return

    def arrays(self) -> Sequence[mx.array]:
        """The arrays held, for evaluation."""
        return list(self.saved()[0].values())
