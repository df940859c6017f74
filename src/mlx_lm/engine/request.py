"""What a caller asks of the engine, and what comes back for each token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from ..errors import RequestError
from ..grammar import Constraint
from ..sampling import LogitsProcessor, Sampler, greedy_sampler
from ..state import KVOptions, State
from ..types import FinishReason
from .speculate.options import Speculation

__all__ = ["PrefillProgress", "Request", "TokenEvent"]


@dataclass(frozen=True)
class Request:
    """One sequence to continue.

    Attributes:
        prompt: token ids to compute; with `states`, those that come after what the states hold.
        max_tokens: at most this many new tokens; None for the end of the answer or of the context.
        stop_tokens: ids that end the text; the id itself is emitted, its text is not.
        stop_sequences: sequences of ids that end the text.
        sampler: log-probabilities (B, V) -> ids (B,).
        logits_processors: called in order, once for each emitted token, with the whole history.
        constraint: where the answer stands in a grammar; the engine works on a copy. Its mask is applied after the
            logits processors, so an answer is always valid; the answer ends when nothing can follow.
        speculation: how tokens are guessed, to be checked several in one step; the answer is the same without.
        states: what the sequence has computed before, one for each layer; moved forward in place.
        history: tokens that `states` hold, for the processors' history.
        input_embeddings: (L, D) for the prompt, in place of the embedding of `prompt`.
        on_progress: called with (tokens done, tokens in all) while the prompt is computed.
        priority: higher goes first.
        deadline: `time.monotonic()` after which the request ends with DeadlineError.
        cache_salt: prefixes are shared only between requests of equal salt.
        keep_states: the engine keeps the states after the end, for `Engine.take`.
    """

    prompt: tuple[int, ...]
    max_tokens: int | None = None
    stop_tokens: frozenset[int] = frozenset()
    stop_sequences: tuple[tuple[int, ...], ...] = ()
    sampler: Sampler = greedy_sampler
    logits_processors: tuple[LogitsProcessor, ...] = ()
    constraint: Constraint | None = None
    speculation: Speculation | None = None
    states: Sequence[State] | None = None
    history: tuple[int, ...] = ()
    kv: KVOptions = field(default_factory=KVOptions)
    input_embeddings: mx.array | None = None
    on_progress: Callable[[int, int], object] | None = None
    priority: int = 0
    deadline: float | None = None
    cache_salt: str = ""
    keep_states: bool = False

    def __post_init__(self) -> None:
        if not self.prompt:
            raise RequestError("The prompt is empty: at least one token is needed to continue from.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise RequestError(
                f"max_tokens must be at least 1, or -1 (in Python also None) for no limit; got {self.max_tokens}."
            )


@dataclass(frozen=True)
class TokenEvent:
    """One new token of one sequence, or its failure.

    `logprobs` (V,) is lazy and costs nothing unless it is used: after logits processors and the constraint's mask, but
    the model's own for a token that the grammar forced. `error` ends the sequence; its token is -1.
    """

    uid: int
    token: int
    logprobs: mx.array | None = None
    finish_reason: FinishReason | None = None
    from_draft: bool = False
    error: Exception | None = None


@dataclass(frozen=True)
class PrefillProgress:
    """How much of a prompt has been computed, of which `cached` tokens were known already."""

    uid: int
    done: int
    total: int
    cached: int = 0
