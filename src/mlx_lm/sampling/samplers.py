"""Samplers: log-probabilities (B, V) -> token ids (B,).

Filters act on the untempered distribution in the order top-p, min-p, typical, XTC, top-k, then temperature: the order
that mlx-lm's users know. Values that filter nothing (top_k >= V, top_p outside (0, 1)) are no filter, not an error.
"""

import math
from collections.abc import Callable, Sequence

import mlx.core as mx

from .. import kernels
from ..errors import RequestError

__all__ = [
    "Sampler",
    "apply_min_p",
    "apply_top_k",
    "apply_top_p",
    "apply_typical_p",
    "apply_xtc",
    "categorical_sampling",
    "greedy_sampler",
    "make_sampler",
]

Sampler = Callable[[mx.array], mx.array]


def greedy_sampler(logprobs: mx.array) -> mx.array:
    """The most likely token of each row; takes logits as well."""
    return mx.argmax(logprobs, axis=-1)


# The engine reads this mark: such a sampler gets raw logits, so that no log-probabilities need be computed.
greedy_sampler.takes_logits = True  # type: ignore[attr-defined]


def make_sampler(
    temp: float = 0.0,
    top_p: float = 0.0,
    min_p: float = 0.0,
    min_tokens_to_keep: int = 1,
    top_k: int = 0,
    xtc_probability: float = 0.0,
    xtc_threshold: float = 0.1,
    xtc_special_tokens: Sequence[int] | None = None,
    *,
    typical_p: float = 0.0,
    seed: int | None = None,
) -> Sampler:
    """A sampler with these settings; temperature 0 is greedy.

    `seed` gives the sampler random numbers of its own, so that its choices do not depend on anything else that runs;
    without it MLX's global generator (`mx.random.seed`) is used.

    Raises:
        RequestError: a value is not a finite number, or is outside its range.
    """
    _check("temp", temp, 0.0, math.inf)
    _check("top_p", top_p, 0.0, 1.0)
    _check("min_p", min_p, 0.0, 1.0)
    _check("typical_p", typical_p, 0.0, 1.0)
    _check("xtc_probability", xtc_probability, 0.0, 1.0)
    _check("xtc_threshold", xtc_threshold, 0.0, 1.0)
    _check("top_k", top_k, -1, math.inf)
    _check("min_tokens_to_keep", min_tokens_to_keep, 1, math.inf)
    if temp == 0:
        return greedy_sampler
    filters: list[Callable[[mx.array, mx.array | None], mx.array]] = []
    if 0 < top_p < 1:
        filters.append(lambda x, _: apply_top_p(x, top_p))
    if min_p > 0:
        filters.append(lambda x, _: apply_min_p(x, min_p, min_tokens_to_keep))
    if 0 < typical_p < 1:
        filters.append(lambda x, _: apply_typical_p(x, typical_p, min_tokens_to_keep))
    if xtc_probability > 0:
        special = list(xtc_special_tokens or [])
        filters.append(lambda x, key: apply_xtc(x, xtc_probability, xtc_threshold, special, key=key))
    keys = _Keys(seed)

    def sample(logprobs: mx.array) -> mx.array:
        first, second = keys.next_pair()
        for apply in filters:
            logprobs = apply(logprobs, first)
        if 0 < top_k * 64 <= logprobs.shape[-1]:  # a few of many: drawn among themselves
            values, best = kernels.top_k(logprobs, int(top_k))
            chosen = categorical_sampling(values, temp, key=second)
            return mx.take_along_axis(best, chosen[..., None], axis=-1)[..., 0]
        if top_k > 0:
            logprobs = apply_top_k(logprobs, int(top_k))
        return categorical_sampling(logprobs, temp, key=second)

    return sample


class _Keys:
    """Random keys of one sampler: step n always gets the same two, whatever else ran between."""

    def __init__(self, seed: int | None):
        self._seed = None if seed is None else seed % 2**64
        self._step = 0

    def next_pair(self) -> tuple[mx.array | None, mx.array | None]:
        if self._seed is None:
            return None, None
        key = mx.random.split(mx.random.key((self._seed + 0x9E3779B97F4A7C15 * self._step) % 2**64))
        self._step += 1
        return key[0], key[1]


def categorical_sampling(logprobs: mx.array, temp: float, *, key: mx.array | None = None) -> mx.array:
    """One draw from each row of softmax(logprobs / temp)."""
    # one random number a row: MLX's own draw needs one for each token of the vocabulary (0.8 ms of 49,152)
    chance = mx.random.uniform(shape=logprobs.shape[:-1], key=key)
    return kernels.draw(logprobs * (1 / temp), chance)


def apply_top_k(logprobs: mx.array, top_k: int) -> mx.array:
    """Keeps the `top_k` most likely tokens of each row; all of them when there are no more."""
    if not isinstance(top_k, int) or top_k <= 0:
        raise RequestError(f"top_k must be a positive integer, not {top_k!r}.")
    if top_k >= logprobs.shape[-1]:
        return logprobs
    if top_k * 64 <= logprobs.shape[-1]:  # a few of many: cheaper to place those that stay
        values, best = kernels.top_k(logprobs, top_k)
        return mx.put_along_axis(mx.full(logprobs.shape, -mx.inf, logprobs.dtype), best, values, axis=-1)
    losers = mx.argpartition(-logprobs, kth=top_k - 1, axis=-1)[..., top_k:]
    return mx.put_along_axis(logprobs, losers, mx.array(-mx.inf, logprobs.dtype), axis=-1)


def apply_top_p(logprobs: mx.array, top_p: float) -> mx.array:
    """Keeps the smallest set of most likely tokens whose probability reaches `top_p`.

    Source: nucleus sampling, https://arxiv.org/abs/1904.09751.
    """
    return kernels.top_p(logprobs, top_p) if 0 < top_p < 1 else logprobs


def apply_min_p(logprobs: mx.array, min_p: float, min_tokens_to_keep: int = 1) -> mx.array:
    """Keeps tokens at least `min_p` times as likely as the best, and the `min_tokens_to_keep` best.

    Source: https://arxiv.org/abs/2407.01082.
    """
    if not 0 <= min_p <= 1:
        raise RequestError(f"min_p must be between 0 and 1, not {min_p!r}.")
    if min_p == 0:
        return logprobs
    best = mx.max(logprobs, axis=-1, keepdims=True)
    kept = logprobs >= best + math.log(min_p)
    return mx.where(kept if min_tokens_to_keep == 1 else kept | _best(logprobs, min_tokens_to_keep), logprobs, -mx.inf)


def apply_typical_p(logprobs: mx.array, typical_p: float, min_tokens_to_keep: int = 1) -> mx.array:
    """Keeps the tokens whose surprise is nearest the mean surprise, up to probability `typical_p`.

    Source: locally typical sampling, https://arxiv.org/abs/2202.00666.
    """
    probabilities = mx.exp(logprobs.astype(mx.float32))
    surprise = mx.where(probabilities > 0, -logprobs.astype(mx.float32), 0)
    entropy = mx.sum(probabilities * surprise, axis=-1, keepdims=True)
    order = mx.argsort(mx.where(probabilities > 0, mx.abs(surprise - entropy), mx.inf), axis=-1)
    ranked = mx.take_along_axis(probabilities, order, axis=-1)
    before = mx.cumsum(ranked, axis=-1) - ranked
    kept = mx.put_along_axis(mx.zeros(logprobs.shape, mx.bool_), order, before < typical_p, axis=-1)
    return mx.where(kept | _best(logprobs, min_tokens_to_keep), logprobs, -mx.inf)


def apply_xtc(
    logprobs: mx.array,
    xtc_probability: float,
    xtc_threshold: float,
    xtc_special_tokens: Sequence[int] = (),
    *,
    key: mx.array | None = None,
) -> mx.array:
    """With probability `xtc_probability` drops all tokens above `xtc_threshold` but the least likely of them.

    `xtc_special_tokens` are never dropped. Source: exclude top choices,
    https://github.com/oobabooga/text-generation-webui/pull/6335.
    """
    probabilities = mx.exp(logprobs.astype(mx.float32))
    above = probabilities > xtc_threshold
    lowest = mx.min(mx.where(above, probabilities, mx.inf), axis=-1, keepdims=True)
    dropped = above & (probabilities > lowest)
    if xtc_special_tokens:
        allowed = mx.array([t for t in xtc_special_tokens if 0 <= t < logprobs.shape[-1]], mx.uint32)
        dropped[..., allowed] = False
    chance = mx.random.uniform(shape=(*logprobs.shape[:-1], 1), key=key)
    return mx.where(dropped & (chance < xtc_probability), -mx.inf, logprobs)


def _best(logprobs: mx.array, count: int) -> mx.array:
    """Mask of the `count` most likely tokens of each row."""
    if count <= 1:
        return logprobs == mx.max(logprobs, axis=-1, keepdims=True)
    if count >= logprobs.shape[-1]:
        return mx.ones(logprobs.shape, mx.bool_)
    threshold = mx.min(mx.topk(logprobs, count, axis=-1), axis=-1, keepdims=True)
    return logprobs >= threshold


def _check(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        limit = f"between {low:g} and {high:g}" if high != math.inf else f"at least {low:g}"
        raise RequestError(f"{name} must be a number {limit}, not {value!r}.")
