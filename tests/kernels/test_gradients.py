"""Gradients of the native operations, by finite differences in float64 and against the plain expressions."""

import functools

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_lm import kernels
from mlx_lm.kernels import KVView, native

EXT = native.extension()
pytestmark = pytest.mark.skipif(EXT is None, reason="the native kernels are not installed")
SLOW = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=EXT.supported_isas() if EXT is not None else [], autouse=True)
def isa(request):
    assert EXT is not None
    kept, threads = EXT.isa(), EXT.num_threads()
    EXT.set_isa(request.param)
    yield
    EXT.set_isa(kept)
    EXT.set_num_threads(threads)


def _array(seed, shape, dtype=mx.float32) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape), mx.float32).astype(dtype)


def _wide(a: mx.array) -> np.ndarray:
    return np.array(a.astype(mx.float32)).astype(np.float64)


def _agree(function, oracle, arguments: list[mx.array], tolerance: float = 2e-4) -> None:
    """The gradient of sum(weigh * function) along random directions is the slope of the float64 `oracle`."""
    weigh = _wide(_array(99, oracle(*map(_wide, arguments)).shape))

    def loss(*a):
        return (function(*a).astype(mx.float32) * mx.array(weigh, mx.float32)).sum()

    gradients = mx.grad(loss, argnums=tuple(range(len(arguments))))(*arguments)
    for i, (argument, gradient) in enumerate(zip(arguments, gradients, strict=True)):
        assert gradient.shape == argument.shape and gradient.dtype == argument.dtype
        for seed in range(3):
            direction = np.random.default_rng(7 + seed).standard_normal(argument.shape)
            wide = [_wide(a) for a in arguments]
            values = []
            for sign in (1, -1):
                moved = [a + sign * 1e-5 * direction if j == i else a for j, a in enumerate(wide)]
                values.append((oracle(*moved) * weigh).sum())
            slope, found = (values[0] - values[1]) / 2e-5, (_wide(gradient) * direction).sum()
            size = np.abs(_wide(gradient) * direction).sum()
            assert abs(slope - found) <= tolerance * max(size, 1e-6), (i, slope, found)


def _oracle(q, k, v, sinks=None, *, scale, window=None, keep=0, softcap=None):
    heads, length, total = q.shape[1], q.shape[2], k.shape[2]
    k, v = (np.repeat(a, heads // a.shape[1], axis=1) for a in (k, v))
    scores = scale * q @ np.swapaxes(k, -1, -2)
    scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
    position, key = np.arange(total - length, total)[:, None], np.arange(total)[None]
    seen = key <= position
    if window is not None:
        seen &= (position - key < window) | (key < keep)
    scores = np.where(seen, scores, -np.inf)
    extra = np.full((1, heads, 1, 1), -np.inf) if sinks is None else sinks[None, :, None, None]
    peak = np.maximum(scores.max(-1, keepdims=True), extra)
    weights = np.exp(scores - peak)
    return weights / (weights.sum(-1, keepdims=True) + np.exp(extra - peak)) @ v


@SLOW
@given(data=st.data())
def test_attention(data):
    kv_heads, group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    batch, length = data.draw(st.integers(1, 2)), data.draw(st.sampled_from([1, 2, 7, 33, 70]))
    total = length + data.draw(st.sampled_from([0, 0, 3, 40]))
    key_dim, value_dim = (data.draw(st.sampled_from([8, 17, 64, 80])) for _ in range(2))
    dtype = data.draw(st.sampled_from([mx.float32, mx.float32, mx.float16, mx.bfloat16]))
    window = data.draw(st.sampled_from([None, 1, 5, 40]))
    options = {
        "scale": key_dim**-0.5,
        "window": window,
        "keep": data.draw(st.integers(0, 6)) if window else 0,
        "softcap": data.draw(st.sampled_from([None, 5.0])),
    }
    arguments = [
        _array(1, (batch, kv_heads * group, length, key_dim), dtype),
        _array(2, (batch, kv_heads, total, key_dim), dtype),
        _array(3, (batch, kv_heads, total, value_dim), dtype),
    ]
    if data.draw(st.booleans()):
        arguments.append(_array(4, (kv_heads * group,)))

    def function(q, k, v, sinks=None):
        view = KVView(k, v, options["window"], options["keep"])
        return kernels.attention(q, (view,), scale=options["scale"], softcap=options["softcap"], sinks=sinks)

    assert EXT is not None
    EXT.set_num_threads(data.draw(st.sampled_from([1, 2, 3])))
    half = {mx.float32: 2e-4, mx.float16: 4e-3, mx.bfloat16: 2e-2}[dtype]
    _agree(function, functools.partial(_oracle, **options), arguments, half)


def test_attention_of_unlike_lengths_and_strided_inputs():
    q = _array(1, (2, 5, 4, 32)).swapaxes(1, 2)
    sides = [_array(i, (1, 2, n, 32)) for i, n in ((2, 9), (3, 9), (4, 31), (5, 31))]

    def function(q, *sides):
        views = (KVView(*sides[:2]), KVView(sides[2][:, :, ::-1], sides[3]))
        return kernels.attention(q, views, scale=0.2).swapaxes(1, 2)

    def oracle(q, *sides):
        parts = (q[:1], *sides[:2]), (q[1:], sides[2][:, :, ::-1], sides[3])
        return np.concatenate([_oracle(*p, scale=0.2) for p in parts]).swapaxes(1, 2)

    _agree(function, oracle, [q, *sides])


def test_attention_under_vmap_compile_and_without_gradients():
    q, k, v = (_array(i, (3, 1, 2, 6, 16)) for i in range(3))

    def loss(q, k, v):
        return (kernels.attention(q, (KVView(k, v),), scale=0.25) ** 2).sum()

    one = [mx.grad(loss, argnums=(0, 1, 2))(q[i], k[i], v[i]) for i in range(3)]
    every = mx.vmap(mx.grad(loss, argnums=(0, 1, 2)))(q, k, v)
    shared = mx.vmap(mx.grad(loss), in_axes=(0, None, None))(q, k[0], v[0])
    for j in range(3):
        assert mx.allclose(every[j], mx.stack([g[j] for g in one]), atol=1e-5)
    assert mx.allclose(shared[0], one[0][0], atol=1e-5)
    values = mx.vmap(loss)(q, k, v)
    assert mx.allclose(values, mx.stack([loss(q[i], k[i], v[i]) for i in range(3)]), rtol=1e-4)
