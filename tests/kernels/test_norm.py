"""Norms, rotation and activations: one node each, against the plain MLX expressions."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_lm import kernels
from mlx_lm.kernels import native

EXT = native.extension()
pytestmark = pytest.mark.usefixtures("isa")
TOLERANCE = {mx.float32: 3e-6, mx.float16: 3e-3, mx.bfloat16: 2e-2}
SLOW = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _array(seed: int, shape: tuple[int, ...], dtype: mx.Dtype = mx.float32) -> mx.array:
    return (2 * mx.array(np.random.default_rng(seed).standard_normal(shape), mx.float32)).astype(dtype)


def _close(y: mx.array, expected: mx.array, tolerance: float) -> None:
    assert y.shape == expected.shape and y.dtype == expected.dtype
    a, b = (np.array(x.astype(mx.float32)) for x in (y, expected))
    np.testing.assert_allclose(
        a, b, rtol=tolerance, atol=tolerance * max(1.0, np.abs(b[np.isfinite(b)]).max(initial=0))
    )


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.sampled_from([1, 2, 15, 16, 17, 33, 100, 576]))


@SLOW
@given(shape=SHAPES, dtype=st.sampled_from(list(TOLERANCE)), offset=st.sampled_from([0.0, 1.0]), turned=st.booleans())
def test_norms(shape, dtype, offset, turned):
    x = _array(1, shape, dtype)
    x = x.swapaxes(0, 1) if turned else x
    w, b = _array(2, shape[-1:], dtype), _array(3, shape[-1:], dtype)
    _close(kernels.rms_norm(x, w, 1e-5, offset=offset), mx.fast.rms_norm(x, w + offset, 1e-5), TOLERANCE[dtype])
    _close(kernels.rms_norm(x, None, 1e-5), mx.fast.rms_norm(x, None, 1e-5), TOLERANCE[dtype])
    wide = x.astype(mx.float32)
    for weight, bias in ((w, b), (w, None), (None, None)):
        parts = [None if a is None else a.astype(mx.float32) for a in (weight, bias)]
        expected = mx.fast.layer_norm(wide, *parts, 1e-5).astype(dtype)
        _close(kernels.layer_norm(x, weight, bias, 1e-5), expected, TOLERANCE[dtype] * 3)


def test_a_row_does_not_depend_on_the_others():
    x, w = _array(1, (70, 100)), _array(2, (100,))
    whole = kernels.rms_norm(x, w, 1e-6)
    if EXT is not None:
        assert all(mx.array_equal(kernels.rms_norm(x[i : i + 1], w, 1e-6), whole[i : i + 1]) for i in range(0, 70, 9))


@SLOW
@given(
    data=st.data(),
    dtype=st.sampled_from(list(TOLERANCE)),
    traditional=st.booleans(),
    dims=st.sampled_from([2, 6, 18, 32, 40, 64]),
)
def test_rope(data, dtype, traditional, dims):
    batch, length = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))
    x = _array(1, (batch, length, 2, 64), dtype).swapaxes(1, 2)
    offset = data.draw(st.integers(0, 50))
    if data.draw(st.booleans()):
        offset = mx.arange(offset, offset + batch)
    freqs = mx.arange(1, dims // 2 + 1).astype(mx.float32) * 3 if data.draw(st.booleans()) else None
    base = 10000.0 if freqs is None else None
    y = kernels.rope(x, dims, traditional=traditional, base=base, offset=offset, freqs=freqs)
    expected = mx.fast.rope(
        x.astype(mx.float32), dims, traditional=traditional, base=base, scale=1.0, offset=offset, freqs=freqs
    )
    _close(y, expected.astype(dtype), max(TOLERANCE[dtype], 2e-5))


@pytest.mark.parametrize("name", sorted(kernels.ACTIVATIONS))
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_activations(name, dtype):
    x = mx.concatenate([_array(1, (3, 300)), mx.array([[0.0, -0.0, 30.0, -30.0, 1e-4, -9.0, 80.0, -80.0]] * 3)], axis=1)
    x, up = x.astype(dtype), _array(2, x.shape, dtype)
    plain = kernels.ACTIVATIONS[name]
    _close(kernels.activation(x, name), plain(x.astype(mx.float32)).astype(dtype), TOLERANCE[dtype])
    expected = (plain(x.astype(mx.float32)) * up.astype(mx.float32)).astype(dtype)
    _close(kernels.gated_activation(x, up, name), expected, TOLERANCE[dtype])
    assert mx.isnan(kernels.activation(mx.array([np.nan], dtype), name)).item()


def test_gradients_take_the_plain_path():
    x, w = _array(1, (4, 32)), _array(2, (32,))
    ours = mx.grad(lambda x, w: (kernels.rms_norm(x, w, 1e-5) ** 3).sum(), argnums=(0, 1))(x, w)
    plain = mx.grad(lambda x, w: (mx.fast.rms_norm(x, w, 1e-5) ** 3).sum(), argnums=(0, 1))(x, w)
    for a, b in zip(ours, plain, strict=True):
        _close(a, b, 1e-5)
    gate = mx.grad(lambda x: kernels.gated_activation(x, x + 1, "silu").sum())(x)
    _close(gate, mx.grad(lambda x: (nn.silu(x) * (x + 1)).sum())(x), 1e-5)
    turn = mx.grad(lambda x: (kernels.rope(x[None, None], 32, base=100.0, offset=3) ** 3).sum())(x)
    assert mx.isfinite(turn).all()


@pytest.mark.parametrize("count", [0, 1])
def test_empty(count):
    assert kernels.rms_norm(mx.zeros((0, 8)), mx.ones((8,)), 1e-5).shape == (0, 8)
    assert kernels.activation(mx.zeros((count, 0)), "silu").shape == (count, 0)
