"""Every operation on every kind of input: strided, reversed, offset and empty arrays give the bits that contiguous ones
give; what is not finite stays where it belongs."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operands import array

from mlx_lm import kernels
from mlx_lm.kernels import KVView, QuantizedTensor, linear, native

EXT = native.extension()
pytestmark = [
    pytest.mark.skipif(EXT is None, reason="the native kernels are not installed"),
    pytest.mark.usefixtures("isa"),
]
SLOW = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
FLOATS = st.sampled_from([mx.float32, mx.bfloat16, mx.float16])
SIZES = st.sampled_from([0, 1, 2, 5, 16, 33])


def _laid_out(a: mx.array, draw: Callable) -> mx.array:
    """The same values in memory of another layout."""
    if a.ndim == 0:
        return a
    kind, axis = (
        draw(st.sampled_from(["plain", "turned", "stepped", "reversed", "inside"])),
        draw(st.integers(0, a.ndim - 1)),
    )
    a = mx.contiguous(a)
    if kind == "turned":
        order = draw(st.permutations(range(a.ndim)))
        back = [order.index(i) for i in range(a.ndim)]
        return mx.contiguous(a.transpose(order)).transpose(back)
    where: list[slice] = [slice(None)] * a.ndim
    if kind == "stepped":
        wide = mx.contiguous(mx.stack([a, a * 0 + 1], axis=axis + 1).flatten(axis, axis + 1))
        where[axis] = slice(None, None, 2)
        return wide[tuple(where)]
    if kind == "reversed":
        where[axis] = slice(None, None, -1)
        return mx.contiguous(a[tuple(where)])[tuple(where)]
    if kind == "inside":
        edge = mx.ones_like(a)
        n = a.shape[axis]
        where[axis] = slice(n, 2 * n)
        return mx.contiguous(mx.concatenate([edge, a, edge], axis=axis))[tuple(where)]
    return a


def _same(function: Callable, arrays: list[mx.array], draw: Callable) -> None:
    """The function's results on the arrays and on other layouts of them, to the last bit."""

    def run(inputs):
        out = function(*inputs)
        out = out if isinstance(out, tuple) else (out,)
        mx.eval(out)
        return out

    mx.eval(arrays)
    expected, found = run(arrays), run([_laid_out(a, draw) for a in arrays])
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert np.array_equal(np.array(a.astype(mx.float32)), np.array(b.astype(mx.float32)), equal_nan=True)


@SLOW
@given(data=st.data(), dtype=FLOATS, other=FLOATS)
def test_rows(data, dtype, other):
    shape = (*tuple(data.draw(st.lists(SIZES, min_size=0, max_size=2))), data.draw(st.sampled_from([1, 7, 16, 40])))
    x, w, b, up = (
        array(1, shape, dtype),
        array(2, shape[-1:], other),
        array(3, shape[-1:], other),
        array(4, shape, other),
    )
    draw = data.draw
    _same(lambda x, w: kernels.rms_norm(x, w, 1e-5, offset=1.0), [x, w], draw)
    _same(lambda x, w, b: kernels.layer_norm(x, w, b, 1e-5), [x, w, b], draw)
    name = draw(st.sampled_from(sorted(kernels.ACTIVATIONS)))
    _same(lambda x: kernels.activation(x, name), [x], draw)
    _same(lambda x, up: kernels.gated_activation(x, up, name), [x, up], draw)
    _same(kernels.argmax, [x], draw)
    k = draw(st.integers(1, shape[-1]))
    _same(lambda x: kernels.top_k(x, k), [x], draw)


@SLOW
@given(data=st.data(), dtype=FLOATS, traditional=st.booleans())
def test_rope(data, dtype, traditional):
    batch, heads, length = (data.draw(SIZES.filter(lambda n: n < 10)) for _ in range(3))
    x = array(1, (batch, heads, length, 24), dtype)
    _same(lambda x: kernels.rope(x, 16, traditional=traditional, base=100.0, offset=3), [x], data.draw)
    offsets = mx.arange(batch)
    freqs = mx.array(10.0) ** mx.arange(8)
    if batch:
        function = lambda x, o, f: kernels.rope(x, 16, traditional=traditional, offset=o, freqs=f)  # noqa: E731
        _same(function, [x, offsets, freqs], data.draw)


@SLOW
@given(
    data=st.data(),
    x_type=FLOATS,
    w_type=FLOATS,
    rows=SIZES,
    n=st.integers(1, 40),
    mode=st.sampled_from(["exact", "int8"]),
)
def test_products(data, x_type, w_type, rows, n, mode):
    assert EXT is not None
    EXT.set_activations(mode)
    k = data.draw(st.integers(1, 100))
    _same(kernels.matmul, [array(1, (rows, k), x_type), array(2, (n, k), w_type), array(3, (n,), w_type)], data.draw)
    group, bits, kind = data.draw(
        st.sampled_from([(32, 2, "affine"), (64, 3, "affine"), (64, 4, "affine"), (128, 8, "affine"), (32, 4, "mxfp4"),
                         (32, 8, "mxfp8"), (16, 4, "nvfp4")])
    )  # fmt: skip
    k = max(group, 32) * data.draw(st.integers(1, 3))
    parts = list(mx.quantize(array(4, (n, k), w_type), group_size=group, bits=bits, mode=kind))
    options = {"group_size": group, "bits": bits, "mode": kind}
    _same(lambda x, *p: kernels.quantized_matmul(x, *p, **options), [array(5, (rows, k), x_type), *parts], data.draw)
    back = [array(5, (rows, n), x_type), *parts]
    _same(lambda x, *p: kernels.quantized_matmul(x, *p, transpose=False, **options), back, data.draw)


EXPERTS = [None, *(("affine", g, b) for g in (32, 64, 128) for b in (2, 3, 4, 5, 6, 8))]
EXPERTS += [("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4)]


@SLOW
@given(
    data=st.data(), fmt=st.sampled_from(EXPERTS), x_type=FLOATS, tokens=st.sampled_from([0, 1, 2, 9, 30]),
    top=st.integers(1, 3), interleaved=st.booleans(),
)  # fmt: skip
def test_experts(data, fmt, x_type, tokens, top, interleaved):
    experts, k = 4, 128
    n = 32 if interleaved else data.draw(st.sampled_from([1, 17, 32]))
    w, x = array(1, (experts, n, k)), array(2, (tokens, 1, 1, k), x_type)
    rng = np.random.default_rng(tokens)
    indices = mx.array(rng.integers(0, experts, (tokens, top)).astype(np.uint32))
    if fmt is None:
        parts, wide = [w], w
    else:
        mode, group, bits = fmt
        parts = list(mx.quantize(w, group_size=group, bits=bits, mode=mode))
        wide = mx.dequantize(*parts, group_size=group, bits=bits, mode=mode)
    held = [linear.interleave(p, dense=fmt is None) for p in parts] if interleaved else parts

    def function(x, indices, *parts):
        if fmt is None:
            return kernels.gather_matmul(x, parts[0], indices, interleaved=interleaved)
        biases = parts[2] if len(parts) > 2 else None
        options = {"group_size": fmt[1], "bits": fmt[2], "mode": fmt[0], "interleaved": interleaved}
        return kernels.gather_quantized_matmul(x, parts[0], parts[1], biases, indices, **options)

    _same(function, [x, indices, *held], data.draw)
    y = np.array(function(x, indices, *held).astype(mx.float32))
    chosen = np.array(wide.astype(mx.float32))[np.array(indices).reshape(tokens, top)]
    expected = np.einsum("tmk,tink->timn", np.array(x.astype(mx.float32))[:, 0], chosen.reshape(tokens, top, n, k))
    size = np.abs(expected).max(initial=1.0)
    assert y.shape == expected.shape
    assert (
        np.abs(y - expected).max(initial=0.0) <= {mx.float32: 1e-5, mx.float16: 2e-3, mx.bfloat16: 1e-2}[x_type] * size
    )
    if x_type == mx.float32 and tokens:  # whichever tokens come along
        alone = function(x[:1], indices[:1], *held)
        assert np.array_equal(np.array(alone), y[:1])


@SLOW
@given(data=st.data(), dtype=FLOATS)
def test_attention(data, dtype):
    draw = data.draw
    kv_heads, group, batch = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(0, 2))
    length = draw(st.sampled_from([0, 1, 3, 40]))
    total = length + draw(st.sampled_from([1, 20]))
    q = array(1, (batch, kv_heads * group, length, 32), dtype)
    k, v = array(2, (batch, kv_heads, total, 32), dtype), array(3, (batch, kv_heads, total, 64), dtype)
    sinks = array(4, (kv_heads * group,), dtype)
    window, softcap = draw(st.sampled_from([None, 7])), draw(st.sampled_from([None, 3.0]))

    def function(q, k, v, sinks):
        return kernels.attention(q, (KVView(k, v, window),), scale=0.2, softcap=softcap, sinks=sinks)

    _same(function, [q, k, v, sinks], draw)
    if not batch:
        return
    bits, width = draw(st.sampled_from([2, 3, 4, 5, 6, 8])), draw(st.sampled_from([32, 64]))
    wide = mx.concatenate([k, k], axis=-1)
    packed = [*mx.quantize(wide, group_size=width, bits=bits), *mx.quantize(v, group_size=width, bits=bits)]

    def on_packed(q, *p):
        view = KVView(QuantizedTensor(*p[:3], width, bits), QuantizedTensor(*p[3:], width, bits), window)
        return kernels.attention(q, (view,), scale=0.1, softcap=softcap, sinks=sinks)

    both = mx.concatenate([q, q], axis=-1)
    _same(on_packed, [both, *packed], draw)
    out = on_packed(both, *packed)
    dense = [mx.dequantize(*p, group_size=width, bits=bits).astype(mx.float32) for p in (packed[:3], packed[3:])]
    view = KVView(dense[0], dense[1], window)
    expected = kernels.attention(both.astype(mx.float32), (view,), scale=0.1, softcap=softcap, sinks=sinks)
    error = mx.abs(out.astype(mx.float32) - expected).max().item() if out.size else 0.0
    assert error <= {mx.float32: 1e-5, mx.float16: 4e-3, mx.bfloat16: 3e-2}[dtype] * max(
        1.0, mx.abs(expected).max().item() if out.size else 1.0
    )


@SLOW
@given(data=st.data(), dtype=FLOATS, length=st.sampled_from([1, 2, 9]))
def test_recurrent(data, dtype, length):
    draw = data.draw
    q, k, v = (
        array(1, (2, length, 2, 24), dtype),
        array(2, (2, length, 2, 24), dtype) * 0.2,
        array(3, (2, length, 4, 20), dtype),
    )
    decay, beta = -mx.abs(array(4, (2, length, 4))), mx.sigmoid(array(5, (2, length, 4)))
    _same(kernels.gated_delta, [q, k, v, decay, beta, array(6, (2, 4, 20, 24))], draw)
    x, b = array(1, (2, length, 4, 8), dtype), array(2, (2, length, 2, 12), dtype)
    steps = mx.abs(array(3, (2, length, 4)))
    ssm = [x, steps, -mx.abs(array(4, (4,))), b, b * 2, array(5, (4,)), array(6, (2, 4, 8, 12))]
    _same(kernels.selective_scan, ssm, draw)
    flat = array(1, (2, length, 20), dtype)
    scan = [
        flat,
        mx.abs(flat),
        -mx.abs(array(4, (20, 6))),
        array(2, (2, length, 6)),
        array(3, (2, length, 6)),
        array(5, (20,)),
    ]
    _same(kernels.diagonal_scan, [*scan, array(6, (2, 20, 6))], draw)
    _same(
        kernels.causal_conv,
        [flat, array(2, (20, 4, 1), dtype), array(3, (20,), dtype), array(6, (2, 3, 20), dtype)],
        draw,
    )


SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 1e38, -1e38, 1.0]  # MLX doubles inside gelu


@SLOW
@given(data=st.data(), dtype=FLOATS)
def test_numbers_that_are_not_ordinary(data, dtype, monkeypatch):
    rows = data.draw(st.lists(st.lists(st.sampled_from(SPECIAL), min_size=17, max_size=17), min_size=1, max_size=3))
    x = mx.array(np.array(rows), mx.float32).astype(dtype)
    name = data.draw(st.sampled_from(sorted(kernels.ACTIVATIONS)))
    calls = [
        lambda: kernels.activation(x, name),
        lambda: kernels.gated_activation(x, mx.ones_like(x), name),
        lambda: kernels.rope(x[None, None], 16, base=100.0),
        lambda: kernels.argmax(x),
    ]
    for i, call in enumerate(calls):
        found = np.array(call().astype(mx.float32))
        with monkeypatch.context() as patch:
            patch.setattr(native, "extension", lambda: None)
            expected = np.array(call().astype(mx.float32))
        finite = np.isfinite(expected)
        if i == 2:  # a pair whose rotation overflows may do so in other intermediate steps
            finite &= np.abs(expected) < 1e37
            assert np.isfinite(found[finite]).all()
        else:
            assert np.array_equal(np.isnan(found), np.isnan(expected)) and np.array_equal(
                found[~finite], expected[~finite], equal_nan=True
            )
        np.testing.assert_allclose(
            found[finite], expected[finite], rtol=2e-2 if dtype != mx.float32 else 1e-4, atol=1e-6
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(bad):
    clean = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    rows = clean.copy()
    rows[2, 5] = bad
    experts, parts = array(1, (3, 24, 64)), mx.quantize(array(1, (3, 24, 64)), group_size=32, bits=4)
    indices = mx.array([[0], [1], [2], [2], [1], [0]], dtype=mx.uint32)
    weight = mx.ones((64,))
    calls = {
        "rms_norm": lambda x: kernels.rms_norm(x, weight, 1e-5),
        "layer_norm": lambda x: kernels.layer_norm(x, weight, weight, 1e-5),
        "matmul": lambda x: kernels.matmul(x, experts[0]),
        "gather_matmul": lambda x: kernels.gather_matmul(x[:, None, None], experts, indices),
        "gather_quantized_matmul": lambda x: kernels.gather_quantized_matmul(
            x[:, None, None], *parts, indices, group_size=32, bits=4
        ),
        "attention": lambda x: kernels.attention(
            x[:, None, None], (KVView(x[:, None, None], x[:, None, None]),), scale=1.0
        ),
    }
    for name, call in calls.items():
        found, expected = (np.array(call(mx.array(a))).reshape(6, -1) for a in (rows, clean))
        assert np.array_equal(np.delete(found, 2, 0), np.delete(expected, 2, 0)), name
        assert not np.isfinite(found[2]).all(), name


def test_packed_keys_whose_scales_and_biases_lie_apart():
    q, k, v = (array(i, (1, 2, n, 64)) for i, n in ((1, 3), (2, 9), (3, 9)))
    codes, scales, biases = mx.quantize(k, group_size=32, bits=4)
    values = QuantizedTensor(*mx.quantize(v, group_size=32, bits=4), 32, 4)
    apart = mx.contiguous(mx.concatenate([scales, scales], axis=2))[:, :, :9]
    views = (QuantizedTensor(codes, scales, biases, 32, 4), QuantizedTensor(codes, apart, biases, 32, 4))
    found = [kernels.attention(q, (KVView(keys, values),), scale=0.2) for keys in views]
    assert mx.array_equal(*found)
