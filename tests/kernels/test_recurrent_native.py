"""The native recurrent kernels: against the step loops, and the same bits for any cut and number of threads."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_lm import kernels
from mlx_lm.kernels import native, recurrent

EXT = native.extension()
pytestmark = [
    pytest.mark.skipif(EXT is None, reason="needs the native kernels"),
    pytest.mark.usefixtures("isa"),
]
SLOW = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
TOLERANCE = {mx.float32: 2e-5, mx.float16: 4e-3, mx.bfloat16: 3e-2}
DTYPES = st.sampled_from(list(TOLERANCE))
LENGTHS = st.sampled_from([1, 2, 3, 5, 17, 65, 70])
SIZES = st.sampled_from([1, 3, 15, 16, 17, 33, 48, 64])


def _close(y, expected, tolerance):
    for a, b in zip(y, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = (np.array(m.astype(mx.float32)) for m in (a, b))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, np.abs(b).max(initial=0)))


def _same(a, b):
    assert all(mx.array_equal(x, y) for x, y in zip(a, b, strict=True))


def _check(run, steps, state, cut, length, tolerance):
    """`run(part, state)` against the oracle, one thread against two, and one call against two; state may be None."""
    whole = run(slice(None), state)
    _close(whole, steps(state), tolerance)
    threads = EXT.num_threads()
    try:
        for n in (1, 2):
            EXT.set_num_threads(n)
            again = run(slice(None), state)
            mx.eval(again)
            _same(again, whole)
    finally:
        EXT.set_num_threads(threads)
    if 0 < cut < length:
        first, middle = run(slice(0, cut), state)
        second, last = run(slice(cut, None), middle)
        _same((mx.concatenate([first, second], axis=1), last), whole)


def _normal(rng, *shape):
    return mx.array(rng.standard_normal(shape), mx.float32)


def _part_of_wider(a):
    """The same values as a view into a wider array, as the layers slice them out of one projection."""
    return mx.concatenate([a, a, a], axis=-1)[..., a.shape[-1] : 2 * a.shape[-1]]


@SLOW
@given(
    data=st.data(), length=LENGTHS, key_dim=SIZES, value_dim=SIZES, dtype=DTYPES, per_channel=st.booleans(),
    state_dtype=st.sampled_from([None, *TOLERANCE]),
)  # fmt: skip
def test_gated_delta(data, length, key_dim, value_dim, dtype, per_channel, state_dtype):
    batch, heads, repeat = (data.draw(st.integers(1, 2)) for _ in range(3))
    rng = np.random.default_rng(length)
    q, k = (_normal(rng, batch, length, heads, key_dim) for _ in range(2))
    q, k = (a / mx.sqrt((a * a).sum(-1, keepdims=True) + 1e-6) for a in (q, k))
    v = _normal(rng, batch, length, heads * repeat, value_dim)
    decays = (batch, length, heads * repeat, key_dim)[: 4 if per_channel else 3]
    g = -3 * mx.array(rng.random(decays) ** 4, mx.float32)
    beta = mx.sigmoid(_normal(rng, batch, length, heads * repeat))
    inputs = [_part_of_wider(a.astype(dtype)) for a in (q, k, v)] + [g, beta.astype(dtype)]
    state = None
    if state_dtype is not None:
        state = _normal(rng, batch, heads * repeat, value_dim, key_dim).astype(state_dtype)
    tolerance = max(TOLERANCE[dtype], TOLERANCE[state_dtype or mx.float32] * 2)
    _check(
        lambda part, s: kernels.gated_delta(*(a[:, part] for a in inputs), s),
        partial(recurrent.gated_delta_steps, *inputs), state, data.draw(st.integers(0, length)), length, tolerance,
    )  # fmt: skip


@SLOW
@given(
    data=st.data(), length=LENGTHS, width=SIZES, states=SIZES, dtype=DTYPES, skip=st.booleans(),
    state_dtype=st.sampled_from([None, *TOLERANCE]),
)  # fmt: skip
def test_selective_scan(data, length, width, states, dtype, skip, state_dtype):
    batch, groups, repeat = (data.draw(st.integers(1, 2)) for _ in range(3))
    heads = groups * repeat
    rng = np.random.default_rng(length)
    x, dt = _normal(rng, batch, length, heads, width).astype(dtype), mx.array(rng.random((batch, length, heads)))
    dt, a = dt.astype(mx.float32), -mx.array(rng.random(heads) * 8, mx.float32)
    b, c = (_part_of_wider(_normal(rng, batch, length, groups, states).astype(dtype)) for _ in range(2))
    d = _normal(rng, heads).astype(dtype) if skip else None
    state = None if state_dtype is None else _normal(rng, batch, heads, width, states).astype(state_dtype)
    _check(
        lambda part, s: kernels.selective_scan(x[:, part], dt[:, part], a, b[:, part], c[:, part], d, s),
        partial(recurrent.selective_scan_steps, x, dt, a, b, c, d), state, data.draw(st.integers(0, length)), length,
        max(TOLERANCE[dtype], TOLERANCE[state_dtype or mx.float32] * 2),
    )  # fmt: skip


@SLOW
@given(
    data=st.data(), length=LENGTHS, width=SIZES, states=SIZES, dtype=DTYPES, skip=st.booleans(),
    state_dtype=st.sampled_from([None, *TOLERANCE]),
)  # fmt: skip
def test_diagonal_scan(data, length, width, states, dtype, skip, state_dtype):
    batch = data.draw(st.integers(1, 2))
    rng = np.random.default_rng(length)
    x, dt = _normal(rng, batch, length, width).astype(dtype), mx.array(rng.random((batch, length, width)))
    dt, a = _part_of_wider(dt.astype(dtype)), -mx.array(rng.random((width, states)) * 8, mx.float32)
    b, c = (_normal(rng, batch, length, states).astype(dtype) for _ in range(2))
    d = _normal(rng, width) if skip else None
    state = None if state_dtype is None else _normal(rng, batch, width, states).astype(state_dtype)
    _check(
        lambda part, s: kernels.diagonal_scan(x[:, part], dt[:, part], a, b[:, part], c[:, part], d, s),
        partial(recurrent.diagonal_scan_steps, x, dt, a, b, c, d), state, data.draw(st.integers(0, length)), length,
        max(TOLERANCE[dtype], TOLERANCE[state_dtype or mx.float32] * 2),
    )  # fmt: skip


@SLOW
@given(
    data=st.data(), length=LENGTHS, channels=st.sampled_from([1, 15, 16, 63, 64, 65, 200]), dtype=DTYPES,
    kernel=st.integers(1, 5), with_bias=st.booleans(), fresh=st.booleans(),
)  # fmt: skip
def test_causal_conv(data, length, channels, dtype, kernel, with_bias, fresh):
    batch = data.draw(st.integers(1, 2))
    rng = np.random.default_rng(length)
    x = _part_of_wider(_normal(rng, batch, length, channels).astype(dtype))
    weight = _normal(rng, channels, kernel, 1).astype(dtype)
    bias = _normal(rng, channels).astype(dtype) if with_bias else None
    state = None if fresh else _normal(rng, batch, kernel - 1, channels).astype(dtype)

    def steps(s):
        s = mx.zeros((batch, kernel - 1, channels), dtype) if s is None else s
        padded = mx.concatenate([s, x], axis=1)
        y = sum(padded[:, i : i + length].astype(mx.float32) * weight[:, i, 0] for i in range(kernel))
        return (y if bias is None else y + bias).astype(dtype), padded[:, length:]

    _check(
        lambda part, s: kernels.causal_conv(x[:, part], weight, bias, s), steps, state,
        data.draw(st.integers(0, length)), length, TOLERANCE[dtype],
    )  # fmt: skip


def test_a_half_state_is_rounded_after_each_step():
    rng = np.random.default_rng(0)
    q, k, v = (_normal(rng, 1, 9, 2, 16) for _ in range(3))
    g, beta = -mx.array(rng.random((1, 9, 2)), mx.float32), mx.sigmoid(_normal(rng, 1, 9, 2))
    state = _normal(rng, 1, 2, 16, 16).astype(mx.bfloat16)
    whole = kernels.gated_delta(q, k / 4, v, g, beta, state)
    parts = []
    for t in range(9):
        step = (a[:, t : t + 1] for a in (q, k / 4, v, g, beta))
        y, state = kernels.gated_delta(*step, state)
        parts.append(y)
    _same(whole, (mx.concatenate(parts, axis=1), state))


def test_nan_stays_in_its_row():
    x, dt, a = mx.ones((1, 3, 20)), mx.ones((1, 3, 20)), -mx.ones((20, 16))
    x[0, 1, 7] = mx.nan
    y, state = kernels.diagonal_scan(x, dt, a, mx.ones((1, 3, 16)), mx.ones((1, 3, 16)), None, None)
    assert mx.isnan(y).sum().item() == 2 and mx.isnan(state).sum().item() == 16


def test_gradients_and_empty_inputs_take_the_plain_path():
    x, weight = mx.ones((1, 4, 3)), mx.ones((3, 2, 1))
    grad = mx.grad(lambda x: kernels.causal_conv(x, weight, None, None)[0].sum())(x)
    assert grad.tolist() == [[[2.0] * 3] * 3 + [[1.0] * 3]]
    y, state = kernels.causal_conv(mx.zeros((0, 4, 3)), weight, None, None)
    assert y.shape == (0, 4, 3) and state.shape == (0, 1, 3)


def test_shapes_that_do_not_fit_are_refused():
    x = mx.ones((1, 2, 4, 8))
    with pytest.raises(ValueError, match="gated_delta"):
        kernels.gated_delta(x, x, mx.ones((1, 2, 6, 8)), mx.ones((1, 2, 6)), mx.ones((1, 2, 6)), None)
    with pytest.raises(ValueError, match="causal_conv"):
        kernels.causal_conv(mx.ones((1, 2, 4)), mx.ones((3, 2, 1)), None, None)
