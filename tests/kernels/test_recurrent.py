"""The chunked forms against the step loops, over random shapes, cuts and decays."""

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lm import kernels
from mlx_lm.kernels import recurrent

LENGTHS = st.one_of(st.integers(1, 20), st.sampled_from([31, 32, 33, 63, 64, 65, 127, 130, 200]))
COMMON = settings(max_examples=25, deadline=None)


def close(a, b, tolerance=2e-5):
    for x, y in zip(a, b, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        scale = max(1.0, mx.abs(y).max().item())
        assert mx.abs(x - y).max().item() < tolerance * scale


def unit(x):
    return x / mx.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)


def delta_inputs(seed, length, *, per_channel, repeat_keys=False, strength=3.0):
    mx.random.seed(seed)
    q, k = (unit(mx.random.normal((2, length, 2, 8))) for _ in range(2))
    if repeat_keys:
        k = mx.broadcast_to(k[:, :1], k.shape)
    v = mx.random.normal((2, length, 4, 6))
    g = -strength * mx.random.uniform(shape=(2, length, 4, 8) if per_channel else (2, length, 4)) ** 4
    beta = mx.sigmoid(mx.random.normal((2, length, 4))) * 2
    return [q, k, v, g, beta], mx.random.normal((2, 4, 6, 8))


def scan_inputs(seed, length, groups):
    mx.random.seed(seed)
    x, dt = mx.random.normal((2, length, 4, 6)), mx.random.uniform(shape=(2, length, 4))
    b, c = (mx.random.normal((2, length, groups, 8)) for _ in range(2))
    return x, dt, -mx.array([0.1, 1.0, 4.0, 16.0]), b, c, mx.random.normal((4,)), mx.random.normal((2, 4, 6, 8))


def diagonal_inputs(seed, length):
    mx.random.seed(seed)
    x, dt = mx.random.normal((2, length, 6)), mx.random.uniform(shape=(2, length, 6))
    a = -mx.random.uniform(shape=(6, 5)) * 8
    b, c = (mx.random.normal((2, length, 5)) for _ in range(2))
    return x, dt, a, b, c, mx.random.normal((6,)), mx.random.normal((2, 6, 5))


@COMMON
@given(LENGTHS, st.booleans(), st.booleans(), st.sampled_from([0.0, 3.0, 300.0]), st.integers(0, 9))
def test_gated_delta_chunks_equal_steps(length, per_channel, repeat_keys, strength, seed):
    inputs, state = delta_inputs(seed, length, per_channel=per_channel, repeat_keys=repeat_keys, strength=strength)
    # Update rates of up to 2 with equal keys make a memory that flips at each step and never fades.
    if repeat_keys:
        inputs[4] = inputs[4] / 2
    close(kernels.gated_delta(*inputs, state), recurrent.gated_delta_steps(*inputs, state))
    close(kernels.gated_delta(*inputs, None), recurrent.gated_delta_steps(*inputs, None))


@COMMON
@given(LENGTHS, st.sampled_from([1, 2, 4]), st.booleans(), st.integers(0, 9))
def test_selective_scan_chunks_equal_steps(length, groups, fresh, seed):
    *inputs, state = scan_inputs(seed, length, groups)
    state = None if fresh else state
    close(kernels.selective_scan(*inputs, state), recurrent.selective_scan_steps(*inputs, state))


@COMMON
@given(LENGTHS, st.booleans(), st.integers(0, 9))
def test_diagonal_scan_chunks_equal_steps(length, fresh, seed):
    *inputs, state = diagonal_inputs(seed, length)
    state = None if fresh else state
    close(kernels.diagonal_scan(*inputs, state), recurrent.diagonal_scan_steps(*inputs, state))


@COMMON
@given(st.integers(1, 70), st.booleans(), st.integers(0, 9))
def test_linear_recurrence_equals_a_loop(length, fresh, seed):
    mx.random.seed(seed)
    g, x = -mx.random.uniform(shape=(2, length, 5)) * 3, mx.random.normal((2, length, 5))
    state = None if fresh else mx.random.normal((2, 5))
    h, outputs = mx.zeros((2, 5)) if state is None else state, []
    for t in range(length):
        h = h * mx.exp(g[:, t]) + x[:, t]
        outputs.append(h)
    close(kernels.linear_recurrence(g, x, state), (mx.stack(outputs, axis=1), h))


@COMMON
@given(st.integers(2, 150), st.data())
def test_a_cut_changes_nothing(length, data):
    cut = data.draw(st.integers(1, length - 1))
    inputs, state = delta_inputs(cut, length, per_channel=data.draw(st.booleans()))
    *scan, memory = scan_inputs(cut, length, 2)

    def delta(part, s):
        return kernels.gated_delta(*(a[:, part] for a in inputs), s)

    def select(part, s):
        x, dt, a, b, c, d = scan
        return kernels.selective_scan(x[:, part], dt[:, part], a, b[:, part], c[:, part], d, s)

    for run, start in ((delta, state), (select, memory)):
        first, middle = run(slice(0, cut), start)
        second, last = run(slice(cut, None), middle)
        close((mx.concatenate([first, second], axis=1), last), run(slice(None), start))


@COMMON
@given(st.integers(1, 12), st.integers(2, 4), st.booleans(), st.data())
def test_convolution_carries_its_tail(length, kernel, bias, data):
    mx.random.seed(length)
    x, weight = mx.random.normal((2, length, 3)), mx.random.normal((3, kernel, 1))
    b = mx.random.normal((3,)) if bias else None
    padded = mx.concatenate([mx.zeros((2, kernel - 1, 3)), x], axis=1)
    expected = sum(padded[:, i : i + length] * weight[:, i, 0] for i in range(kernel))
    expected = expected if b is None else expected + b
    y, tail = kernels.causal_conv(x, weight, b, None)
    close((y, tail), (expected, padded[:, length:]))
    cut = data.draw(st.integers(0, length - 1))
    if cut:
        first, middle = kernels.causal_conv(x[:, :cut], weight, b, None)
        second, last = kernels.causal_conv(x[:, cut:], weight, b, middle)
        close((mx.concatenate([first, second], axis=1), last), (expected, tail))


@pytest.mark.parametrize("length", [1, 3, 40])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_states_keep_their_dtype_and_outputs_that_of_the_values(length, dtype):
    inputs, state = delta_inputs(0, length, per_channel=False)
    inputs[2] = inputs[2].astype(mx.bfloat16)
    y, new = kernels.gated_delta(*inputs, state.astype(dtype))
    assert (y.dtype, new.dtype) == (mx.bfloat16, dtype)
    x, dt, a, b, c, d, memory = scan_inputs(0, length, 2)
    y, new = kernels.selective_scan(x.astype(mx.bfloat16), dt, a, b, c, d, memory.astype(dtype))
    assert (y.dtype, new.dtype) == (mx.bfloat16, dtype)


def test_chunked_delta_rule_has_gradients():
    inputs, state = delta_inputs(0, 40, per_channel=False)

    def loss(v):
        return kernels.gated_delta(*inputs[:2], v, *inputs[3:], state)[0].sum()

    def plain(v):
        return recurrent.gated_delta_steps(*inputs[:2], v, *inputs[3:], state)[0].sum()

    close([mx.grad(loss)(inputs[2])], [mx.grad(plain)(inputs[2])])
