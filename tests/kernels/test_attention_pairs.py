"""Attention over bfloat16 keys and values in the int8 mode: products in pairs, against the same in float64."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_lm import kernels
from mlx_lm.kernels import native
from mlx_lm.kernels.attention import KVView

EXT = native.extension()
pytestmark = pytest.mark.skipif(
    EXT is None or "avx512bf16" not in EXT.supported_isas(), reason="the CPU multiplies no pairs of bfloat16"
)


@pytest.fixture(autouse=True)
def _fast():
    native.set_activations("int8")


def _rounded(x: np.ndarray) -> np.ndarray:
    return np.array(mx.array(x).astype(mx.bfloat16).astype(mx.float32)).astype(np.float64)


def _case(heads: int, kv_heads: int, length: int, total: int, dim: int, value_dim: int):
    mx.random.seed(heads * 1000 + total)
    shapes = (1, heads, length, dim), (1, kv_heads, total, dim), (1, kv_heads, total, value_dim)
    q, k, v = (mx.random.normal(s) for s in shapes)
    return q, k.astype(mx.bfloat16), v.astype(mx.bfloat16)


def _expected(q: mx.array, k: mx.array, v: mx.array, window: int | None) -> np.ndarray:
    """Queries rounded after scaling; probabilities rounded before the sum, not before their own total."""
    _, heads, length, dim = q.shape
    total = k.shape[2]
    keys, values = (np.repeat(np.array(a.astype(mx.float32))[0], heads // k.shape[1], 0) for a in (k, v))
    scores = _rounded(np.array(q)[0] * np.float32(dim**-0.5)) @ keys.transpose(0, 2, 1).astype(np.float64)
    at = np.arange(total - length, total)[:, None] - np.arange(total)[None]
    seen = (at >= 0) & (at < (window or total + 1))
    scores = np.where(seen, scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return _rounded(p.astype(np.float32)) @ values / p.sum(-1, keepdims=True)


@pytest.mark.parametrize("window", [None, 37])
@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (9, 3), (8, 1), (16, 1)])
@pytest.mark.parametrize(("length", "total"), [(1, 1), (1, 33), (1, 700), (5, 90), (40, 40), (100, 611)])
def test_pairs_are_attention(heads: int, kv_heads: int, length: int, total: int, window: int | None) -> None:
    q, k, v = _case(heads, kv_heads, length, total, 64, 96)
    y = kernels.attention(q, [KVView(k, v, window=window)], scale=64**-0.5)
    expected = _expected(q, k, v, window)
    # a probability on the edge between two bfloat16 may be rounded to either
    assert np.abs(np.array(y)[0] - expected).max() < 4e-3
    assert np.abs(np.array(y)[0] - expected).mean() < 2e-5


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("kv_heads", [1, 3, 6])
def test_a_query_gets_the_same_alone_and_among_others(kv_heads: int, dim: int) -> None:
    q, k, v = _case(6, kv_heads, 21, 333, dim, 64)
    whole = kernels.attention(q, [KVView(k, v)], scale=0.125)
    for i in (0, 1, 13, 20):
        end = 333 - 20 + i
        view = KVView(k[:, :, :end], v[:, :, :end])
        assert mx.array_equal(kernels.attention(q[:, :, i : i + 1], [view], scale=0.125), whole[:, :, i : i + 1])


def test_hidden_keys_do_not_matter() -> None:
    q, k, v = _case(6, 2, 3, 200, 64, 64)
    y = kernels.attention(q, [KVView(k, v, window=51)], scale=0.125)
    for bad in (mx.nan, mx.inf):
        hidden = mx.arange(200)[None, None, :, None] < 200 - 53
        keys, values = (mx.where(hidden, bad, a).astype(mx.bfloat16) for a in (k, v))
        assert mx.array_equal(kernels.attention(q, [KVView(keys, values, window=51)], scale=0.125), y)


def test_exact_mode_does_not_round() -> None:
    q, k, v = _case(6, 2, 4, 70, 64, 64)
    fast = kernels.attention(q, [KVView(k, v)], scale=0.125)
    native.set_activations("exact")
    exact = kernels.attention(q, [KVView(k, v)], scale=0.125)
    assert not mx.array_equal(fast, exact)
    assert mx.abs(fast - exact).max() < 3e-2
