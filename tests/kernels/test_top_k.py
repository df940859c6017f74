"""The k largest of large vocabularies against sorting, and the sampler's filter that uses them."""

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
def isa(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(native, "extension", lambda: None)
        yield
        return
    kept = EXT.isa()
    EXT.set_isa(request.param)
    yield
    EXT.set_isa(kept)


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
