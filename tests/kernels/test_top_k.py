"""The k largest, the likeliest that hold a mass and log-probabilities of large vocabularies; filters that use them."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_lm import kernels
from mlx_lm.errors import RequestError
from mlx_lm.kernels import native
from mlx_lm.sampling import apply_top_k

EXT = native.extension()
SLOW = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
DTYPES = st.sampled_from([mx.float32, mx.bfloat16, mx.float16])


@pytest.fixture(params=[*(EXT.supported_isas() if EXT is not None else []), "plain"], autouse=True)
def isa(request, monkeypatch, restored_settings):
    if request.param == "plain":
        monkeypatch.setattr(native, "extension", lambda: None)
    else:
        EXT.set_isa(request.param)


def _logits(seed, batch, width, dtype, coarse, special):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, width)) * 3
    x = np.round(x) if coarse else x  # many equal values
    if special:
        x[rng.random(x.shape) < 0.1] = -np.inf
        x[rng.random(x.shape) < 0.05] = np.inf
        x[rng.random(x.shape) < 0.05] = -0.0
        x[rng.random(x.shape) < 0.3 * rng.integers(0, 2)] = np.nan
    return mx.array(x, mx.float32).astype(dtype)


@SLOW
@given(
    data=st.data(), width=st.sampled_from([1, 2, 15, 63, 64, 65, 200, 1000, 3001]), dtype=DTYPES,
    coarse=st.booleans(), special=st.booleans(), batch=st.integers(1, 3),
)  # fmt: skip
def test_equals_a_stable_sort(data, width, dtype, coarse, special, batch):
    k = data.draw(st.one_of(st.integers(1, width), st.just(1), st.just(min(width, 40))))
    x = _logits(width + k, batch, width, dtype, coarse, special)
    values, indices = kernels.top_k(x, k)
    wide = np.array(x.astype(mx.float32))
    order = np.argsort(-wide, axis=-1, kind="stable")[:, :k]  # NaN last
    assert indices.dtype == mx.uint32 and values.dtype == dtype
    taken, found = np.take_along_axis(wide, order, -1), np.array(indices)
    assert np.array_equal(np.array(values.astype(mx.float32)), taken, equal_nan=True)
    assert np.array_equal(found[~np.isnan(taken)], order[~np.isnan(taken)])
    assert np.array_equal(np.take_along_axis(wide, found, -1), taken, equal_nan=True)
    assert all(len(set(row)) == k for row in found.tolist())


@SLOW
@given(data=st.data(), dtype=DTYPES, coarse=st.booleans(), batch=st.integers(1, 2))
def test_the_filter_keeps_what_partitioning_keeps(data, dtype, coarse, batch):
    width = data.draw(st.sampled_from([10, 5000]))
    k = data.draw(st.integers(1, width + 1))
    x = _logits(k, batch, width, dtype, coarse, False)
    expected = x
    if k < width:
        losers = mx.argpartition(-x, kth=k - 1, axis=-1)[..., k:]
        expected = mx.put_along_axis(x, losers, mx.array(-mx.inf, dtype), axis=-1)
    assert mx.array_equal(apply_top_k(x, k), expected)


def test_shapes_threads_and_refusals():
    x = _logits(0, 6, 70000, mx.float32, True, False)
    whole = kernels.top_k(x, 50)
    for row in range(0, 6, 2):
        one = kernels.top_k(x[row], 50)
        assert mx.array_equal(one[1], whole[1][row]) and mx.array_equal(one[0], whole[0][row])
    turned = kernels.top_k(x[:, :40].swapaxes(0, 1), 2)
    assert turned[0].shape == (40, 2) and mx.array_equal(turned[0][:, 0], x[:, :40].max(axis=0))
    assert kernels.top_k(mx.zeros((0, 8)), 3)[0].shape == (0, 3)
    for k in (0, 9):
        with pytest.raises(RequestError, match="top_k"):
            kernels.top_k(mx.zeros((1, 8)), k)


@SLOW
@given(
    data=st.data(), width=st.sampled_from([1, 2, 17, 200, 3001]), dtype=DTYPES, coarse=st.booleans(),
    batch=st.integers(0, 3), p=st.sampled_from([1e-9, 0.1, 0.5, 0.9, 0.999999]),
)  # fmt: skip
def test_the_likeliest_that_hold_a_mass(data, width, dtype, coarse, batch, p):
    x = kernels.log_softmax(_logits(width, batch, width, dtype, coarse, False))
    if data.draw(st.booleans()):  # as after another filter: part of the mass is gone
        x = mx.where(mx.arange(width) % 3 == 1, -mx.inf, x)
    found = np.array(kernels.top_p(x, p).astype(mx.float32))
    wide = np.array(x.astype(mx.float32))
    for row, result in zip(wide, found, strict=True):
        kept = result > -np.inf
        assert np.array_equal(result[kept], row[kept])
        order = np.argsort(-row, kind="stable")
        mass = np.exp(row[order].astype(np.float64))
        before = np.cumsum(mass) - mass
        sure = np.abs(before - p) > max(1e-5, width * 2**-24)  # rounding of a running sum decides about the others
        expected = (before < p) & (row[order] > -np.inf)
        assert np.array_equal(kept[order][sure], expected[sure])
        count = int(kept.sum())
        assert np.array_equal(kept[order][:count], row[order][:count] > -np.inf)  # a prefix of the order


@SLOW
@given(width=st.sampled_from([1, 2, 17, 200, 3001]), dtype=DTYPES, batch=st.integers(0, 3), special=st.booleans())
def test_log_probabilities(width, dtype, batch, special):
    x = _logits(width, batch, width, dtype, False, False) * 5
    if special:
        x = mx.where(mx.arange(width) % 4 == 1, -mx.inf, x)
    found, wide = np.array(kernels.log_softmax(x).astype(mx.float32)), np.array(x.astype(mx.float32)).astype(np.float64)
    shifted = wide - wide.max(-1, keepdims=True)
    expected = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    half = {mx.float32: 2e-6, mx.float16: 2e-3, mx.bfloat16: 1e-2}[dtype]
    # where MLX serves, the sum is rounded to the type before it is taken off
    np.testing.assert_allclose(
        found, expected, rtol=half, atol=half * max(5, np.abs(wide[np.isfinite(wide)]).max(initial=0))
    )


def test_sampling_from_a_few_of_many():
    from mlx_lm.sampling import make_sampler

    x = kernels.log_softmax(mx.zeros((4, 1000)).at[:, ::100].add(mx.arange(10) / 2.0))
    sampler, plain = make_sampler(0.7, top_k=5, seed=1), make_sampler(0.7, top_k=900, seed=1)
    drawn = mx.stack([sampler(x) for _ in range(300)])
    assert drawn.shape == (300, 4) and drawn.dtype == mx.uint32
    counts = {int(t): int((drawn == t).sum()) for t in range(0, 1000, 100)}
    assert sum(counts.values()) == 1200 and all(counts[t] == 0 for t in range(0, 500, 100))
    assert counts[500] < counts[700] < counts[900]
    assert plain(x).shape == (4,)


@SLOW
@given(width=st.sampled_from([1, 2, 17, 200, 3001]), dtype=DTYPES, batch=st.integers(0, 3), seed=st.integers(0, 99))
def test_draws_invert_the_distribution(width, dtype, batch, seed):
    x = _logits(seed, batch, width, dtype, False, False)
    x = mx.where(mx.arange(width) % 4 == 1, -mx.inf, x)
    chance = np.random.default_rng(seed).random(batch).astype(np.float32)
    found = np.array(kernels.draw(x, mx.array(chance).reshape(batch)))
    wide = np.array(x.astype(mx.float32)).astype(np.float64)
    mass = np.cumsum(np.exp(wide - wide.max(-1, keepdims=True)), axis=-1)
    assert found.shape == (batch,) and found.dtype == np.uint32
    for i, token in enumerate(found):
        share = mass[i] / mass[i, -1]
        before = share[token - 1] if token else 0.0
        assert before - 1e-5 <= chance[i] <= share[token] + 1e-5 and wide[i, token] > -np.inf
