"""Attention against a float64 oracle: shapes, windows, sinks, caps, packed keys; and equality to the last bit."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operands import array, as_float64

from mlx_lm import kernels
from mlx_lm.kernels import KVView, QuantizedTensor, native

EXT = native.extension()
TOLERANCE = {mx.float32: 2e-5, mx.float16: 4e-3, mx.bfloat16: 3e-2}
SLOW = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
needs_native = pytest.mark.skipif(EXT is None, reason="the native kernels are not installed")


def _oracle(q, k, v, *, scale, window=None, keep=0, softcap=None, sinks=None) -> np.ndarray:
    q, k, v = (as_float64(a) for a in (q, k, v))
    heads, length, total = q.shape[1], q.shape[2], k.shape[2]
    k, v = (np.repeat(a, heads // a.shape[1], axis=1) for a in (k, v))
    scores = scale * q @ np.swapaxes(k, -1, -2)
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    position, key = np.arange(total - length, total)[:, None], np.arange(total)[None]
    seen = key <= position
    if window is not None:
        seen &= (position - key < window) | (key < keep)
    scores = np.where(seen, scores, -np.inf)
    extra = np.full((1, heads, 1, 1), -np.inf) if sinks is None else as_float64(sinks)[None, :, None, None]
    peak = np.maximum(scores.max(-1, keepdims=True), extra)
    weights = np.exp(scores - peak)
    return weights / (weights.sum(-1, keepdims=True) + np.exp(extra - peak)) @ v


def _close(y: mx.array, expected: np.ndarray, tolerance: float) -> None:
    assert y.shape == expected.shape
    np.testing.assert_allclose(as_float64(y), expected, atol=tolerance * max(1.0, np.abs(expected).max()), rtol=0)


def _packed(a: mx.array, bits: int, group: int) -> QuantizedTensor:
    w, s, b = mx.quantize(a, group_size=group, bits=bits)
    return QuantizedTensor(w, s, b, group, bits)


def _head(t: mx.array | QuantizedTensor, end: int) -> mx.array | QuantizedTensor:
    if isinstance(t, mx.array):
        return t[:, :, :end]
    return QuantizedTensor(t.packed[:, :, :end], t.scales[:, :, :end], t.biases[:, :, :end], t.group_size, t.bits)


@SLOW
@given(data=st.data())
def test_matches_the_oracle(isa, data):
    kv_heads, group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    batch, length = data.draw(st.integers(1, 2)), data.draw(st.sampled_from([1, 2, 7, 33, 70]))
    total = length + data.draw(st.integers(0, 90))
    key_dim, value_dim = (data.draw(st.sampled_from([8, 17, 64, 80, 96])) for _ in range(2))
    dtype = data.draw(st.sampled_from(list(TOLERANCE)))
    window = data.draw(st.sampled_from([None, 1, 5, 40]))
    keep = data.draw(st.integers(0, 6)) if window else 0
    softcap = data.draw(st.sampled_from([None, 5.0]))
    sinks = array(4, (kv_heads * group,)) if data.draw(st.booleans()) else None
    q = array(1, (batch, kv_heads * group, length, key_dim), dtype)
    k = array(2, (batch, kv_heads, total, key_dim), dtype)
    v = array(3, (batch, kv_heads, total, value_dim), dtype)
    scale = key_dim**-0.5
    out = kernels.attention(
        q,
        (KVView(k, v, window, keep),),
        scale=scale,
        softcap=softcap,
        sinks=None if sinks is None else sinks.astype(dtype),
    )
    expected = _oracle(
        q,
        k,
        v,
        scale=scale,
        window=window,
        keep=keep,
        softcap=softcap,
        sinks=None if sinks is None else sinks.astype(dtype),
    )
    assert out.dtype == dtype
    _close(out, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("length", [1, 50])
def test_packed_keys_and_values(isa, bits, length):
    q = array(1, (1, 4, length, 64))
    k, v = _packed(array(2, (1, 2, 75, 64)), bits, 32), _packed(array(3, (1, 2, 75, 96)), bits, 32)
    out = kernels.attention(q, (KVView(k, v),), scale=0.125)
    _close(out, _oracle(q, k.dequantize(), v.dequantize(), scale=0.125), 2e-5)


def test_strided_views_and_unlike_lengths(isa):
    buffers = [array(i, (1, 2, 40, 64)) for i in range(4)]
    q = array(9, (2, 3, 6, 64)).swapaxes(1, 2)  # (2, 6, 3, 64), not contiguous
    views = tuple(
        KVView(keys[:, :, 2:end], values[:, :, 2:end])
        for keys, values, end in ((buffers[0], buffers[1], 9), (*buffers[2:], 37))
    )
    out = kernels.attention(q, views, scale=0.125)
    for i, view in enumerate(views):
        _close(out[i : i + 1], _oracle(q[i : i + 1], view.keys, view.values, scale=0.125), 2e-5)
        alone = kernels.attention(q[i : i + 1], (view,), scale=0.125)
        assert EXT is None or mx.array_equal(alone, out[i : i + 1])


@needs_native
@SLOW
@given(data=st.data())
def test_equal_to_the_last_bit_in_any_chunk_and_thread_count(isa, data):
    length, group = data.draw(st.integers(2, 120)), data.draw(st.integers(1, 4))
    before = data.draw(st.integers(0, 60))
    window, keep = data.draw(st.sampled_from([(None, 0), (7, 0), (30, 3)]))
    dtype = data.draw(st.sampled_from(list(TOLERANCE)))
    q, k, v = (array(i, (1, h, before + length, 64), dtype) for i, h in ((1, 2 * group), (2, 2), (3, 2)))
    q = q[:, :, before:]
    if data.draw(st.booleans()):
        k, v = _packed(k, 4, 64), _packed(v, 8, 32)
    assert EXT is not None
    EXT.set_num_threads(2)
    whole = kernels.attention(q, (KVView(k, v, window, keep),), scale=0.2)
    mx.eval(whole)
    EXT.set_num_threads(data.draw(st.sampled_from([1, 2, 3])))
    start = 0
    while start < length:
        stop = min(length, start + data.draw(st.sampled_from([1, 2, 7, 64])))
        view = KVView(_head(k, before + stop), _head(v, before + stop), window, keep)
        part = kernels.attention(q[:, :, start:stop], (view,), scale=0.2)
        assert mx.array_equal(part, whole[:, :, start:stop])
        start = stop


@needs_native
def test_a_window_gives_the_same_bits_wherever_it_lies(isa):
    q, k, v = (array(i, (1, 2, 90, 64)) for i in range(3))
    whole = kernels.attention(q[:, :, -3:], (KVView(k, v, 20),), scale=0.1)
    moved = kernels.attention(q[:, :, -3:], (KVView(k[:, :, 61:], v[:, :, 61:], 20),), scale=0.1)
    assert mx.array_equal(whole, moved)


@needs_native  # MLX's own attention multiplies what is hidden by zero
def test_hidden_garbage_is_never_read_into_a_result(isa):
    q, k, v = (array(i, (1, 2, 50, 64)) for i in range(3))
    clean = kernels.attention(q, (KVView(k, v, 9),), scale=0.1)
    v[:, :, 30] = mx.array(np.nan)
    k[:, :, 31] = mx.array(np.inf)
    out = kernels.attention(q, (KVView(k, v, 9),), scale=0.1)
    assert mx.isnan(out[:, :, 30]).all()
    for hidden in (slice(0, 30), slice(40, 50)):  # 31 is seen last by 39
        assert mx.array_equal(out[:, :, hidden], clean[:, :, hidden])


@pytest.mark.parametrize("sinks", [None, array(9, (8,))])
@pytest.mark.parametrize("length", [1, 40])
def test_latent_attention(isa, length, sinks):
    q, p = array(1, (2, 8, length, 96)), array(2, (2, 8, length, 32))
    views = tuple(KVView(array(3 + i, (1, 1, n, 96)), array(5 + i, (1, 1, n, 32))) for i, n in enumerate((45, 61)))
    out = kernels.latent_attention(q, p, views, scale=0.1, sinks=sinks)
    for i, view in enumerate(views):
        keys = mx.concatenate([view.keys, view.values], axis=-1)
        both = mx.concatenate([q, p], axis=-1)[i : i + 1]
        _close(out[i : i + 1], _oracle(both, keys, view.keys, scale=0.1, sinks=sinks), 2e-5)


def test_each_query_may_have_sinks_of_its_own(isa):
    q, sinks = array(1, (2, 4, 5, 64)), array(2, (2, 4, 5))
    view = KVView(array(3, (2, 2, 9, 64)), array(4, (2, 2, 9, 64)))
    out = kernels.attention(q, (view,), scale=0.1, sinks=sinks, mask=kernels.visible(5, 9))
    for row in range(2):
        keys, values = view.keys[row : row + 1], view.values[row : row + 1]
        for i in range(5):
            seen = i + 5
            expected = _oracle(q[row : row + 1, :, i : i + 1], keys[:, :, :seen], values[:, :, :seen], scale=0.1,
                               sinks=sinks[row, :, i])  # fmt: skip
            _close(out[row : row + 1, :, i : i + 1], expected, 2e-5)


def test_gradients_flow():
    q, k, v = (array(i, (1, 2, 5, 32)) for i in range(3))

    def loss(q, k, v):
        return (kernels.attention(q, (KVView(k, v),), scale=0.2) ** 2).sum()

    gradients = mx.grad(loss, argnums=(0, 1, 2))(q, k, v)
    for i, g in enumerate(gradients):
        step = array(7, (1, 2, 5, 32)) * 1e-2
        moved = [[a + sign * step if j == i else a for j, a in enumerate((q, k, v))] for sign in (1, -1)]
        assert abs(((loss(*moved[0]) - loss(*moved[1])) / 2 - (g * step).sum()).item()) < 1e-3
