"""`Constraint`: what the engine knows of structured output, one token at a time.

Contract: a constraint belongs to one sequence and holds where in the grammar that sequence stands. `Grammar` is what
was compiled once for a tokenizer; it is immutable, can be shared by threads, and `start` gives a fresh constraint.

The end of the text: end tokens (the ids that end generation) are allowed exactly where the grammar may end. They are
accepted like other tokens, can be rolled back, and after one only end tokens are allowed. `forced` never gives them.

This module does not know grammars, tokenizers or MLX, and imports numpy (45 ms) only when a mask is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    TokenMask: TypeAlias = NDArray[np.uint32]  # (ceil(V / 32),): bit i % 32 of word i // 32 is token i

__all__ = ["Constraint", "Grammar", "TokenMask", "allows", "mask_tokens", "mask_width"]


def __getattr__(name: str) -> Any:
    if name != "TokenMask":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import numpy as np
    from numpy.typing import NDArray

    return NDArray[np.uint32]


@runtime_checkable
class Constraint(Protocol):
    """Where one sequence stands in a grammar.

    Deterministic: equal tokens accepted from the start give equal answers, also after a rollback and in copies.
    """

    @property
    def done(self) -> bool:
        """Nothing can follow but an end token, or one was accepted."""
        ...

    @property
    def complete(self) -> bool:
        """The text may end here: end tokens are allowed."""
        ...

    def mask(self) -> TokenMask:
        """The tokens allowed next, uint32 (ceil(V / 32),) with V the tokenizer's vocabulary; tokens past it are not.

        At least one bit is set. The array is the caller's to keep. Raises GrammarError when the grammar became too
        complex to go on.
        """
        ...

    def accept(self, token: int) -> None:
        """Moves on by one token. Raises GrammarError for one that is not allowed, and has then not moved."""
        ...

    def rollback(self, count: int) -> None:
        """Takes back the last `count` accepted tokens. Raises GrammarError when there are fewer."""
        ...

    def forced(self) -> list[int]:
        """Tokens that must come next, in order, not accepted yet; empty when there is a choice. No end tokens."""
        ...

    def validate(self, tokens: Sequence[int]) -> int:
        """How many of `tokens`, in order, would be accepted from here; does not move."""
        ...

    def copy(self) -> Constraint:
        """An independent constraint that stands at the same place."""
        ...


class Grammar(Protocol):
    """A compiled grammar for one tokenizer."""

    def start(self) -> Constraint:
        """A constraint at the beginning of the grammar."""
        ...


def mask_width(vocabulary: int) -> int:
    """Words of a mask over `vocabulary` tokens."""
    return (vocabulary + 31) // 32


def allows(mask: TokenMask, token: int) -> bool:
    """Whether `token` is in the mask."""
    word = token >> 5
    return 0 <= word < len(mask) and bool((int(mask[word]) >> (token & 31)) & 1)


def mask_tokens(mask: TokenMask) -> NDArray[np.int64]:
    """The ids in the mask, in rising order."""
    import numpy as np

    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
