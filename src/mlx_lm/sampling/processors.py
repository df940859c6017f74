"""Logits processors: (all tokens so far (n,), logits (1, V)) -> logits (1, V), called once for each emitted token.

The history includes the whole prompt, whether it came from a cache or not.
"""

import math
from collections.abc import Callable, Mapping

import mlx.core as mx

from ..errors import RequestError

__all__ = [
    "LogitsProcessor",
    "make_frequency_penalty",
    "make_logit_bias",
    "make_logits_processors",
    "make_presence_penalty",
    "make_repetition_penalty",
]

LogitsProcessor = Callable[[mx.array, mx.array], mx.array]


def make_logits_processors(
    logit_bias: Mapping[int, float] | None = None,
    repetition_penalty: float | None = None,
    repetition_context_size: int | None = 20,
    presence_penalty: float | None = None,
    presence_context_size: int | None = 20,
    frequency_penalty: float | None = None,
    frequency_context_size: int | None = 20,
) -> list[LogitsProcessor]:
    """Processors in the order bias, repetition, presence, frequency; settings that change nothing make none.

    A context size is how many of the latest tokens count; None or 0 is all of them.

    Raises:
        RequestError: a value is not a finite number, or is outside its range.
    """
    processors: list[LogitsProcessor] = []
    if logit_bias:
        processors.append(make_logit_bias(logit_bias))
    # 0 and 1 both mean "off": the first by mlx-lm's habit, the second because it multiplies by one.
    if repetition_penalty not in (None, 0, 1):
        processors.append(make_repetition_penalty(repetition_penalty, repetition_context_size))  # type: ignore[arg-type]
    if presence_penalty:
        processors.append(make_presence_penalty(presence_penalty, presence_context_size))
    if frequency_penalty:
        processors.append(make_frequency_penalty(frequency_penalty, frequency_context_size))
    return processors


def make_logit_bias(logit_bias: Mapping[int, float]) -> LogitsProcessor:
    """Adds a number to the logits of some tokens."""
    ids = list(logit_bias)
    for token, value in logit_bias.items():
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < 2**31:
            raise RequestError(f"logit_bias has {token!r}, which is not a token id.")
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise RequestError(f"logit_bias of token {token} must be a number, not {value!r}.")
    indices, values = mx.array(ids, mx.int32), mx.array([float(v) for v in logit_bias.values()], mx.float32)
    largest = max(ids)

    def bias(_: mx.array, logits: mx.array) -> mx.array:
        if largest >= logits.shape[-1]:
            raise RequestError(f"logit_bias has token {largest}, but the vocabulary has {logits.shape[-1]} tokens.")
        return logits.at[:, indices].add(values.astype(logits.dtype))

    return bias


def make_repetition_penalty(penalty: float, context_size: int | None = 20) -> LogitsProcessor:
    """Divides positive and multiplies negative logits of tokens already seen. Source: CTRL, 1909.05858."""
    if not _number(penalty) or penalty <= 0:
        raise RequestError(f"repetition_penalty must be a positive number, not {penalty!r}.")
    size = _context(context_size)

    def repetition(tokens: mx.array, logits: mx.array) -> mx.array:
        seen = _recent(tokens, size)
        if seen.size == 0:
            return logits
        chosen = logits[:, seen]
        logits[:, seen] = mx.where(chosen < 0, chosen * penalty, chosen / penalty)
        return logits

    return repetition


def make_presence_penalty(penalty: float, context_size: int | None = 20) -> LogitsProcessor:
    """Subtracts `penalty` once from the logits of each token already seen."""
    if not _number(penalty):
        raise RequestError(f"presence_penalty must be a number, not {penalty!r}.")
    size = _context(context_size)

    def presence(tokens: mx.array, logits: mx.array) -> mx.array:
        seen = _recent(tokens, size)
        if seen.size == 0:
            return logits
        logits[:, seen] = logits[:, seen] - penalty  # a token seen twice is written twice with the same value
        return logits

    return presence


def make_frequency_penalty(penalty: float, context_size: int | None = 20) -> LogitsProcessor:
    """Subtracts `penalty` from a token's logit for each time it was seen."""
    if not _number(penalty):
        raise RequestError(f"frequency_penalty must be a number, not {penalty!r}.")
    size = _context(context_size)

    def frequency(tokens: mx.array, logits: mx.array) -> mx.array:
        seen = _recent(tokens, size)
        return logits if seen.size == 0 else logits.at[:, seen].subtract(mx.array(penalty, logits.dtype))

    return frequency


def _recent(tokens: mx.array, size: int | None) -> mx.array:
    return tokens if size is None else tokens[-size:]


def _context(size: int | None) -> int | None:
    if size is None or size == 0:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise RequestError(f"A penalty's context size must be a number of tokens, not {size!r}.")
    return size


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
