"""Matrix products against the plain MLX expression, for every instruction set, thread count, format and layout."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operands import array, as_float64

from mlx_lm import kernels
from mlx_lm.kernels import linear, native

EXT = native.extension()
FORMATS = [("affine", g, b) for b in (2, 3, 4, 5, 6, 8) for g in (32, 64, 128)]
FORMATS += [("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4)]
DTYPES = [mx.float32, mx.bfloat16, mx.float16]
needs_native = pytest.mark.skipif(EXT is None, reason="the native kernels are not installed")
SLOW = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _packed(seed: int, shape: tuple[int, ...], fmt, dtype: mx.Dtype = mx.float32):
    """(w, scales, biases or None) and the float64 weight that they stand for."""
    mode, group, bits = fmt
    w, s, *b = mx.quantize(array(seed, shape, dtype), group_size=group, bits=bits, mode=mode)
    if mode == "affine":
        wide = mx.dequantize(w, s.astype(mx.float32), b[0].astype(mx.float32), group_size=group, bits=bits)
    else:
        wide = mx.dequantize(w, s, group_size=group, bits=bits, mode=mode)
    return (w, s, b[0] if b else None), as_float64(wide)


def _close(y: mx.array, expected: np.ndarray, tolerance: float, usual: float = 0.0) -> None:
    """`usual`: the size of sums whose terms do not happen to cancel."""
    assert y.shape == expected.shape
    scale = max(np.abs(expected).max(initial=0.0), usual) or 1.0
    assert np.abs(as_float64(y) - expected).max(initial=0.0) <= tolerance * scale


def _tolerance(dtype: mx.Dtype) -> float:
    return {mx.float32: 3e-6, mx.bfloat16: 8e-3, mx.float16: 1e-3}[dtype]


@needs_native
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 9, 26])
def test_quantized_product_matches_the_weight_it_stands_for(isa, fmt, rows):
    for seed, (n, k) in enumerate([(33, 384), (48, 1280)]):
        packed, wide = _packed(seed, (n, k), fmt, DTYPES[rows % 3])
        x = array(10 + rows, (rows, k))
        out = _tolerance(mx.float32)
        y = kernels.quantized_matmul(x, *packed, group_size=fmt[1], bits=fmt[2], mode=fmt[0])
        assert y.dtype == mx.float32
        _close(y, as_float64(x) @ wide.T, out)
        back = array(20 + rows, (rows, n))
        y = kernels.quantized_matmul(back, *packed, group_size=fmt[1], bits=fmt[2], mode=fmt[0], transpose=False)
        _close(y, as_float64(back) @ wide, out)


@needs_native
@SLOW
@given(
    fmt=st.sampled_from(FORMATS),
    n=st.integers(1, 70),
    groups=st.integers(1, 5),
    lead=st.lists(st.integers(0, 4), min_size=0, max_size=3),
    x_type=st.sampled_from(DTYPES),
    w_type=st.sampled_from(DTYPES),
    transpose=st.booleans(),
    seed=st.integers(0, 99),
)
def test_quantized_product_agrees_with_mlx(fmt, n, groups, lead, x_type, w_type, transpose, seed):
    mode, group, bits = fmt
    k = max(group, 32) * groups  # mx.quantize takes rows of 32 or more
    (w, s, b), wide = _packed(seed, (n, k), fmt, w_type)
    x = array(seed + 1, (*lead, k if transpose else n), x_type)
    y = kernels.quantized_matmul(x, w, s, b, group_size=group, bits=bits, mode=mode, transpose=transpose)
    if x.ndim == 1:
        x = x[None]
        y = y[None]
    if x.size == 0:
        assert y.shape == (*x.shape[:-1], n if transpose else k)
        return
    expected = mx.quantized_matmul(
        x.astype(mx.float32),
        w,
        s.astype(mx.float32) if mode == "affine" else s,
        b.astype(mx.float32) if b is not None else None,
        transpose=transpose,
        group_size=group,
        bits=bits,
        mode=mode,
    )
    kind = mx.quantized_matmul(x, w, s, b, transpose=transpose, group_size=group, bits=bits, mode=mode).dtype
    assert y.dtype == kind
    _close(y, as_float64(expected), _tolerance(y.dtype), np.std(as_float64(x)) * np.std(wide) * x.shape[-1] ** 0.5)


@needs_native
@SLOW
@given(
    n=st.integers(1, 70),
    k=st.integers(1, 150),
    m=st.integers(0, 30),
    x_type=st.sampled_from(DTYPES),
    w_type=st.sampled_from(DTYPES),
    bias=st.booleans(),
)
def test_dense_product_agrees_with_mlx(n, k, m, x_type, w_type, bias):
    x, w = array(m, (m, k), x_type), array(n, (n, k), w_type)
    extra = array(k, (n,), w_type) if bias else None
    y = kernels.matmul(x, w, extra)
    expected = as_float64(x) @ as_float64(w).T + (0 if extra is None else as_float64(extra))
    assert y.dtype == (x @ w.T).dtype
    usual = np.std(as_float64(x)) * np.std(as_float64(w)) * k**0.5 if m else 0.0
    _close(y, expected, _tolerance(y.dtype), usual)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dense_product_on_every_isa(isa, dtype):
    for m, n, k in [(1, 5, 3), (2, 33, 70), (13, 64, 576), (130, 40, 200)]:
        x, w = array(m, (m, k)), array(n, (n, k), dtype)
        _close(kernels.matmul(x, w), as_float64(x) @ as_float64(w).T, 3e-6)
        back = array(k, (m, n))
        _close(native.extension().matmul(back, w, False), as_float64(back) @ as_float64(w), 3e-6)


@needs_native
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("mode", native.ACTIVATION_MODES)
def test_a_row_does_not_depend_on_its_batch_layout_or_threads(isa, fmt, mode):
    assert EXT is not None
    EXT.set_activations(mode)
    n, k = 48, 640
    (w, s, b), _ = _packed(3, (n, k), fmt, mx.bfloat16)
    x = array(4, (260, k))
    kwargs = {"group_size": fmt[1], "bits": fmt[2], "mode": fmt[0]}
    alone = mx.concatenate([kernels.quantized_matmul(x[i : i + 1], w, s, b, **kwargs) for i in range(26)])
    mixed = [None if a is None else linear.interleave(a, dense=False) for a in (w, s, b)]
    for threads in (1, 2, 3):
        EXT.set_num_threads(threads)
        for rows in (2, 3, 5, 7, 8, 9, 13, 26, 260):
            for weights, interleaved in (((w, s, b), False), (mixed, True)):
                y = kernels.quantized_matmul(x[:rows], *weights, **kwargs, interleaved=interleaved)
                assert mx.array_equal(y[:26], alone[:rows]), (threads, rows, interleaved)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", native.ACTIVATION_MODES)
def test_a_dense_row_does_not_depend_on_its_batch(isa, dtype, mode):
    assert EXT is not None
    EXT.set_activations(mode)
    x, w = array(1, (140, 200), dtype), array(2, (50, 200), dtype)
    alone = mx.concatenate([kernels.matmul(x[i : i + 1], w) for i in range(20)])
    for threads in (1, 2):
        EXT.set_num_threads(threads)
        for rows in (3, 8, 9, 20, 140):
            assert mx.array_equal(kernels.matmul(x[:rows], w)[:20], alone[:rows])


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_a_packed_matrix_are_what_mlx_unpacks(dtype, bits, group):
    w = mx.random.normal((48, 256), key=mx.random.key(bits)).astype(dtype)
    parts = mx.quantize(w, group_size=group, bits=bits)
    ids = mx.array([[3, 47, 16], [0, 16, 31]])
    expected = mx.dequantize(*(a[ids] for a in parts), group_size=group, bits=bits)
    packing = {"group_size": group, "bits": bits}
    mixed = [linear.interleave(a, dense=False) for a in parts]
    for out in (None, mx.float32):
        want = expected if out is None else expected.astype(out)
        for arrays, interleaved in ((parts, False), (mixed, True)):
            rows = kernels.embedding_rows(ids, *arrays, **packing, interleaved=interleaved, dtype=out)
            assert rows.dtype == want.dtype and mx.array_equal(rows, want)
    assert kernels.embedding_rows(ids[:, :0], *parts, **packing).shape == (2, 0, 256)


def test_rows_of_packed_matrices_of_other_kinds_come_from_mlx():
    for mode, group, bits in (("mxfp4", 32, 4), ("nvfp4", 16, 4), ("mxfp8", 32, 8)):
        parts = mx.quantize(mx.random.normal((32, 64)), mode=mode)
        ids = mx.array([1, 31])
        expected = mx.dequantize(*(a[ids] for a in parts), mode=mode)
        assert mx.array_equal(kernels.embedding_rows(ids, *parts, group_size=group, bits=bits, mode=mode), expected)


def test_rows_of_a_matrix_that_is_trained_have_gradients():
    w, ids = mx.random.normal((16, 64)), mx.array([3, 3, 5])
    found = mx.grad(lambda w: kernels.embedding_rows(ids, w).sum())(w)
    assert found.sum(axis=1).tolist() == [128.0 if i == 3 else 64.0 if i == 5 else 0.0 for i in range(16)]


@pytest.mark.skipif(native.extension() is None, reason="the native kernels are not installed")
def test_rows_that_are_not_there_are_not_numbers():
    w = mx.ones((16, 64))
    assert mx.isnan(kernels.embedding_rows(mx.array([16, -17, 2**31 - 1]), w)).all()
    assert mx.array_equal(kernels.embedding_rows(mx.array([-1]), w), w[:1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_interleaved_dense_weight_is_the_same_weight(dtype, monkeypatch):
    x, w = array(1, (9, 128), dtype), array(2, (48, 128), dtype)
    mixed = linear.interleave(w)
    assert mx.array_equal(linear.deinterleave(mixed), w)
    ids = mx.array([[3, 47], [16, 0]])
    assert mx.array_equal(kernels.embedding_rows(ids, mixed, interleaved=True), w[ids])
    for rows in (1, 9):
        assert mx.array_equal(kernels.matmul(x[:rows], mixed, interleaved=True), kernels.matmul(x[:rows], w))
    monkeypatch.setattr(native, "extension", lambda: None)
    assert mx.array_equal(linear.interleave(w), mixed)
    _close(kernels.matmul(x, mixed, interleaved=True), as_float64(x) @ as_float64(w).T, _tolerance(dtype))


def _int8_rows(x: np.ndarray, unit: int) -> np.ndarray:
    """The mode's definition: each unit rounded to 1/127 of its largest, but for one more than 3 times all others."""
    units = x.astype(np.float32).reshape(len(x), -1, unit).copy()
    sizes = np.sort(np.abs(units), axis=-1)
    apart = sizes[..., -1] > 3 * sizes[..., -2]
    place = np.abs(units).argmax(-1)[..., None]
    outlier = np.where(apart[..., None], np.take_along_axis(units, place, -1), 0).astype(np.float64)
    np.put_along_axis(units, place, np.where(apart[..., None], 0, np.take_along_axis(units, place, -1)), -1)
    amax = np.maximum(np.abs(units).max(-1, keepdims=True), np.float32(1e-30))
    rounded = (np.rint(units * (np.float32(127) / amax)) * (amax / np.float32(127))).astype(np.float64)
    np.put_along_axis(rounded, place, np.take_along_axis(rounded, place, -1) + outlier, -1)
    return rounded.reshape(x.shape)


@needs_native
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_int8_activations_are_the_product_of_the_quantized_row(isa, bits, group):
    assert EXT is not None
    packed, wide = _packed(5, (40, 256), ("affine", group, bits))
    x = np.array(array(6, (17, 256)))
    chance = np.random.default_rng(7)
    for row in range(17):  # outliers of many sizes, in many places; a unit of which nothing else is left; a tie
        x[row, chance.integers(0, 256, 4)] *= chance.choice([3, 8, 100], 4)
    x[3, :64] = 0
    x[3, 5] = -7
    x[4, 64:128] = np.where(np.arange(64) % 40 == 11, 9, x[4, 64:128] / 10)
    EXT.set_activations("int8")
    expected = _int8_rows(x, min(group, 64)) @ wide.T
    for rows in (1, 4, 9, 17):
        y = kernels.quantized_matmul(mx.array(x[:rows]), *packed, group_size=group, bits=bits)
        _close(y, expected[:rows], 3e-6)


@needs_native
@pytest.mark.parametrize("mode", native.ACTIVATION_MODES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_stays_alone(isa, mode, bad):
    assert EXT is not None
    EXT.set_activations(mode)
    packed, _ = _packed(1, (32, 128), ("affine", 64, 4))
    clean = array(2, (12, 128))
    rows = np.array(clean)
    rows[5, 17] = bad
    for count in (6, 12):
        y = np.array(kernels.quantized_matmul(mx.array(rows[:count]), *packed))
        assert not np.isfinite(y[5]).any()
        expected = np.array(kernels.quantized_matmul(clean[:count], *packed))
        assert np.array_equal(np.delete(y, 5, 0), np.delete(expected, 5, 0))


@needs_native
def test_inputs_that_are_not_contiguous(isa):
    packed, wide = _packed(1, (32, 256), ("affine", 64, 4))
    x = array(2, (256, 6)).T
    _close(kernels.quantized_matmul(x, *packed), as_float64(x) @ wide.T, 3e-6)
    wider = [mx.concatenate([a, a], axis=1)[:, : a.shape[1]] for a in packed if a is not None]
    _close(kernels.quantized_matmul(x[::2], *wider), as_float64(x[::2]) @ wide.T, 3e-6)
    w = array(3, (40, 30)).T
    _close(kernels.matmul(x[:, :40], w), as_float64(x[:, :40]) @ as_float64(w).T, 3e-6)
    one = mx.broadcast_to(array(4, (1, 256)), (5, 256))
    _close(kernels.quantized_matmul(one, *packed), as_float64(one) @ wide.T, 3e-6)


@needs_native
@pytest.mark.parametrize("fmt", [("affine", 32, 4), ("affine", 64, 3), ("mxfp4", 32, 4), None], ids=str)
@pytest.mark.parametrize("interleaved", [False, True])
def test_gathered_experts_agree_with_mlx(isa, fmt, interleaved):
    experts, n, k = 5, 32, 128
    rng = np.random.default_rng(0)
    for x_shape, i_shape in [((7, 1, 1, k), (7, 3)), ((1, 1, 1, k), (1, 4)), ((30, 1, k), (30,)), ((2, 3, k), (4, 2))]:
        x = array(1, x_shape)
        indices = mx.array(rng.integers(0, experts, i_shape).astype(np.uint32))
        if fmt is None:
            w = array(2, (experts, n, k))
            y, expected = kernels.gather_matmul(x, w, indices), mx.gather_mm(x, w.swapaxes(-1, -2), rhs_indices=indices)
        else:
            packed, _ = _packed(2, (experts, n, k), fmt)
            kwargs = {"group_size": fmt[1], "bits": fmt[2], "mode": fmt[0]}
            weights = [a if a is None or not interleaved else linear.interleave(a, dense=False) for a in packed]
            y = kernels.gather_quantized_matmul(x, *weights, indices, **kwargs, interleaved=interleaved)
            expected = mx.gather_qmm(x, *packed, rhs_indices=indices, **kwargs)
        _close(y, as_float64(expected), 3e-6)


@needs_native
@pytest.mark.parametrize("transpose", [True, False])
def test_one_matrix_per_head(transpose):
    packed, _ = _packed(2, (3, 32, 128), ("affine", 64, 4))
    x = array(1, (3, 5, 128 if transpose else 32))
    y = kernels.quantized_matmul(x, *packed, transpose=transpose)
    _close(y, as_float64(mx.quantized_matmul(x, *packed, transpose=transpose)), 3e-6)


@needs_native
def test_gradients_by_finite_differences():
    (w, s, b), _ = _packed(1, (24, 64), ("affine", 32, 4))
    x, weigh = array(2, (3, 64)), array(3, (3, 24))
    experts, _ = _packed(4, (4, 24, 64), ("affine", 32, 4))
    indices = mx.array([[0, 2], [1, 1], [3, 0]], dtype=mx.uint32)
    dense = array(5, (24, 64))
    losses = {
        "quantized": lambda v: (kernels.quantized_matmul(v, w, s, b, group_size=32) * weigh).sum(),
        "dense": lambda v: (kernels.matmul(v, dense) * weigh).sum(),
        "gathered": lambda v: kernels.gather_quantized_matmul(
            v[:, None, None], *experts, indices, group_size=32, bits=4
        ).sum(),
    }
    for name, loss in losses.items():
        gradient = mx.grad(loss)(x)
        direction = array(6, x.shape)
        step = 1e-2  # the losses are linear in v: only rounding differs
        slope = (loss(x + step * direction) - loss(x - step * direction)).item() / (2 * step)
        assert abs(slope - (gradient * direction).sum().item()) < 2e-3 * max(1.0, abs(slope)), name
    by_weight = mx.grad(lambda v: (kernels.matmul(x, v) * weigh).sum())(dense)
    _close(by_weight, as_float64(weigh).T @ as_float64(x), 3e-6)
    mixed = [linear.interleave(a[:16], dense=False) for a in (w, s, b)]
    plain = mx.grad(lambda v: kernels.quantized_matmul(v, w[:16], s[:16], b[:16], group_size=32).sum())(x)
    same = mx.grad(lambda v: kernels.quantized_matmul(v, *mixed, group_size=32, interleaved=True).sum())(x)
    assert mx.array_equal(plain, same)


def test_interleaving_is_undone_and_has_a_plain_path(monkeypatch):
    for dtype in (mx.uint32, mx.bfloat16, mx.uint8):
        a = mx.arange(2 * 32 * 6).reshape(2, 32, 6).astype(dtype)
        mixed = linear.interleave(a, dense=False)
        assert mx.array_equal(linear.deinterleave(mixed, dense=False), a)
        assert mx.array_equal(mixed.reshape(2, 2, 6, 16), a.reshape(2, 2, 16, 6).swapaxes(-1, -2))
        with monkeypatch.context() as patch:
            patch.setattr(native, "extension", lambda: None)
            assert mx.array_equal(linear.interleave(a, dense=False), mixed)
            assert mx.array_equal(linear.deinterleave(mixed, dense=False), a)
            assert not linear.can_interleave(a)


def test_the_plain_path_serves_everything(monkeypatch):
    (w, s, b), wide = _packed(1, (32, 128), ("affine", 64, 4))
    x = array(2, (3, 128))
    monkeypatch.setattr(native, "extension", lambda: None)
    _close(kernels.quantized_matmul(x, w, s, b), as_float64(x) @ wide.T, 3e-6)
    mixed = [linear.interleave(a, dense=False) for a in (w, s, b)]
    _close(kernels.quantized_matmul(x, *mixed, interleaved=True), as_float64(x) @ wide.T, 3e-6)
    assert native.describe() == "plain MLX"


@needs_native
def test_settings_are_checked():
    assert EXT is not None
    with pytest.raises(ValueError, match="choose one of"):
        native.set_activations("fp3")
    native.set_activations("int8")
    assert native.activations() == "int8" and "int8" in native.describe()
    with pytest.raises(ValueError, match="unknown instruction set"):
        EXT.set_isa("mmx")
    with pytest.raises(ValueError, match="features"):
        EXT.matmul(mx.zeros((2, 3)), mx.zeros((4, 5)))
    assert EXT.default_num_threads() >= 1
