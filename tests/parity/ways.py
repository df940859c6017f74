"""The ways in which a model is run against expected logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

__all__ = ["TOLERANCE", "batched", "check", "in_pieces"]

TOLERANCE = 1e-4


def check(logits: mx.array, expected: mx.array) -> None:
    """Fails with the first position at which logits (1, L, V) differ by more than the tolerance."""
    if logits.shape != expected.shape:
        pytest.fail(f"logits have shape {logits.shape}, not {expected.shape}")
    each = np.array(mx.abs(logits - expected).max(axis=(0, 2)))  # (L,)
    wrong = np.flatnonzero(~(each < TOLERANCE))
    if wrong.size:
        pytest.fail(f"logits are off by {each.max():.2e}, from position {wrong[0]} on")


def _pieces(length: int, sizes: list[int]) -> Iterator[tuple[int, int]]:
    at = 0
    for size in [*sizes, *([1] * length)]:
        if at >= length:
            return
        yield at, min(at + size, length)
        at += size


def in_pieces(model: Any, ids: mx.array, sizes: list[int]) -> mx.array:
    """Logits of a prompt in pieces of the given sizes, then token by token."""
    cache = model.make_cache()
    return mx.concatenate([model(ids[:, a:b], cache) for a, b in _pieces(ids.shape[1], sizes)], axis=1)


def batched(model: Any, ids: mx.array, expected: mx.array) -> Iterator[tuple[mx.array, mx.array]]:
    """Logits of three sequences of different lengths in one batch, and what they should be."""
    starts = [3, 11, 8]
    caches = [model.make_cache() for _ in starts]
    for start, cache in zip(starts, caches, strict=True):
        model(ids[:, :start], cache)
    cache = [list(states) for states in zip(*caches, strict=True)]
    for done, length in ((0, 1), (1, 4), (5, 1), (6, 1)):
        spans = [(start + done, start + done + length) for start in starts]
        logits = model(mx.concatenate([ids[:, a:b] for a, b in spans]), cache)
        yield logits, mx.concatenate([expected[:, a:b] for a, b in spans])
