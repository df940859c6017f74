"""How a request's tokens may be guessed. The guesses are checked by the model, so no choice here changes the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import mlx.nn as nn

from ...errors import RequestError
from ...state import State

__all__ = ["DraftSpeculation", "HeadSpeculation", "NGramSpeculation", "Probe", "Speculation"]


@dataclass(frozen=True)
class Probe:
    """When speculation pays: it is tried for `tokens` tokens and rests where too little of it was right.

    The share is accepted / (accepted + misses), a miss being a step whose guess was wrong from its first token on.
    Each rest is twice as long as the last, so a text that turns repetitive late is noticed.

    Attributes:
        tokens: emitted between two judgements.
        threshold: the least share that goes on.
        min_prompt: shorter prompts are not speculated on at all.
        rest: tokens of the first rest.
    """

    tokens: int = 16
    threshold: float = 0.3
    min_prompt: int = 0
    rest: int = 64

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.rest < 1 or self.min_prompt < 0 or not 0 <= self.threshold <= 1:
            raise RequestError(f"A probe needs positive counts and a threshold within 0 and 1; got {self}.")


@dataclass(frozen=True)
class NGramSpeculation:
    """Guesses that the text goes on as it did after the latest occurrence of its last tokens (prompt lookup).

    The longest match of `min_match` to `max_match` tokens counts; `max_match` None is `min_match`.
    Source: https://github.com/apoorvumang/prompt-lookup-decoding.
    """

    num_tokens: int = 5
    min_match: int = 3
    max_match: int | None = None
    probe: Probe | None = None

    def __post_init__(self) -> None:
        _check("num_tokens", self.num_tokens)
        _check("min_match", self.min_match)
        if self.max_match is not None and self.max_match < self.min_match:
            raise RequestError(f"max_match must be at least min_match ({self.min_match}), not {self.max_match!r}.")


@dataclass(frozen=True)
class DraftSpeculation:
    """A smaller model of the same vocabulary guesses; `states` are its own for the beginning, moved forward in place.

    Source: https://arxiv.org/abs/2211.17192, with equality in place of the ratio test.
    """

    model: nn.Module
    num_tokens: int = 3
    states: Sequence[State] | None = None
    probe: Probe | None = None

    def __post_init__(self) -> None:
        _check("num_draft_tokens", self.num_tokens)


@dataclass(frozen=True)
class HeadSpeculation:
    """The model's own next-token head guesses; see `nn.mtp`. More than one token at a time has rarely paid."""

    num_tokens: int = 1
    probe: Probe | None = None

    def __post_init__(self) -> None:
        _check("num_tokens", self.num_tokens)


Speculation: TypeAlias = NGramSpeculation | DraftSpeculation | HeadSpeculation


def _check(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestError(f"{name} must be an integer of at least 1, not {value!r}.")
