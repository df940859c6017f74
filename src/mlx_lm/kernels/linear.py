"""Matrix products with dense and quantized weights, plain and gathered by expert.

Contract: every function takes weights as MLX stores them, `(out_features, in_features)` dense or packed by
`mx.quantize`, and returns what the plain MLX expression returns, to rounding. Which implementation runs is decided
here and nowhere else: the native kernels on the CPU where they are installed and serve the types, else MLX's own.
On the native path in exact mode a row's result does not depend on the rows computed with it. This module does not
know about layers, states or models.

Packed weights may be *interleaved*: rows regrouped in blocks of 16 so that one vector register holds 16 outputs.
It costs one pass at load (`interleave`), no memory, and is undone without loss by `deinterleave`; decode reads such
weights 1.5 to 3 times faster. The caller remembers which layout it has and says so.
"""

import mlx.core as mx

from . import native

__all__ = [
    "can_interleave",
    "deinterleave",
    "embedding_rows",
    "gather_matmul",
    "gather_quantized_matmul",
    "interleave",
    "matmul",
    "quantized_matmul",
]

_FLOATS = (mx.float32, mx.bfloat16, mx.float16)
_GROUPS = {"affine": (32, 64, 128), "mxfp4": (32,), "mxfp8": (32,), "nvfp4": (16,)}
_BITS = {"affine": (2, 3, 4, 5, 6, 8), "mxfp4": (4,), "mxfp8": (8,), "nvfp4": (4,)}


def _serves(mode: str, group_size: int, bits: int, x: mx.array, scales: mx.array, biases: mx.array | None) -> bool:
    """Whether the native kernels take this format and these types; a new MLX format goes to MLX."""
    if x.dtype not in _FLOATS or group_size not in _GROUPS.get(mode, ()) or bits not in _BITS[mode]:
        return False
    if mode == "affine":
        return biases is not None and scales.dtype in _FLOATS and biases.dtype == scales.dtype
    return scales.dtype == mx.uint8


def matmul(x: mx.array, w: mx.array, bias: mx.array | None = None, *, interleaved: bool = False) -> mx.array:
    """Dense product `x @ w.T (+ bias)`: x (..., K), w (N, K), bias (N,) -> (..., N).

    `interleaved`: w went through `interleave`.
    """
    module = native.extension()
    if module is not None and w.ndim == 2 and x.dtype in _FLOATS and w.dtype in _FLOATS:
        y = module.matmul(x, w, True, interleaved)
        return y if bias is None else y + bias
    if interleaved:
        w = deinterleave(w)
    if bias is None:
        return x @ w.T
    return mx.addmm(bias, x, w.T)


def quantized_matmul(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    biases: mx.array | None = None,
    *,
    transpose: bool = True,
    group_size: int = 64,
    bits: int = 4,
    mode: str = "affine",
    interleaved: bool = False,
) -> mx.array:
    """Product with a weight packed by `mx.quantize`.

    x (..., K), w (N, K*bits/32) uint32, scales and biases (N, K/group_size) -> (..., N); with
    `transpose=False`, x (..., N) -> (..., K). A batch of matrices, w (B, N, ...) with x (B, M, K), is a product each.
    `interleaved`: w, scales and biases went through `interleave`.
    """
    module = native.extension()
    if module is not None and _serves(mode, group_size, bits, x, scales, biases):
        if w.ndim == 2:
            return module.quantized_matmul(x, w, scales, biases, group_size, bits, mode, transpose, interleaved)
        if w.ndim == 3 and x.ndim == 3 and x.shape[0] == w.shape[0]:  # one matrix per head
            every = mx.arange(w.shape[0], dtype=mx.uint32)
            return module.gather_quantized_matmul(
                x, w, scales, biases, every, group_size, bits, mode, transpose, interleaved
            )
    if interleaved:
        w, scales, biases = _plain_layout(w, scales, biases)
    return mx.quantized_matmul(
        x, w, scales=scales, biases=biases, transpose=transpose, group_size=group_size, bits=bits, mode=mode
    )


def gather_matmul(
    x: mx.array, w: mx.array, indices: mx.array, *, sorted_indices: bool = False, interleaved: bool = False
) -> mx.array:
    """One dense expert per index: x (..., 1, 1, K) or (..., M, K), w (E, N, K), indices (...) -> (..., M, N).

    `interleaved`: w went through `interleave`.
    """
    module = native.extension()
    native_types = x.dtype in _FLOATS and w.dtype in _FLOATS
    if module is not None and w.ndim == 3 and native_types and not module.traced(w):  # MLX has gradients of experts
        return module.gather_matmul(x, w, indices, True, interleaved)
    if interleaved:
        w = deinterleave(w)
    dtype = x.dtype
    if mx.default_device().type == mx.DeviceType.cpu and w.dtype != mx.float32:
        x, w = x.astype(mx.float32), w.astype(mx.float32)  # all that MLX's own CPU op takes
    y = mx.gather_mm(x, w.swapaxes(-1, -2), rhs_indices=indices, sorted_indices=sorted_indices)
    return y.astype(dtype)


def gather_quantized_matmul(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    indices: mx.array,
    *,
    group_size: int,
    bits: int,
    mode: str = "affine",
    sorted_indices: bool = False,
    interleaved: bool = False,
) -> mx.array:
    """One quantized expert per index: as `gather_matmul` with w packed, (E, N, K*bits/32)."""
    module = native.extension()
    traced = module is not None and module.traced(scales)  # MLX has gradients of experts' scales
    if module is not None and w.ndim == 3 and not traced and _serves(mode, group_size, bits, x, scales, biases):
        return module.gather_quantized_matmul(x, w, scales, biases, indices, group_size, bits, mode, True, interleaved)
    if interleaved:
        w, scales, biases = _plain_layout(w, scales, biases)
    return mx.gather_qmm(
        x,
        w,
        scales,
        biases,
        rhs_indices=indices,
        transpose=True,
        group_size=group_size,
        bits=bits,
        mode=mode,
        sorted_indices=sorted_indices,
    )


def can_interleave(w: mx.array) -> bool:
    """Whether `interleave` is possible and worth doing: native kernels in use, rows in whole blocks of 16."""
    if native.extension() is None or w.ndim not in (2, 3) or w.shape[-2] % 16:
        return False
    return w.dtype == mx.uint32 or (w.dtype in _FLOATS and w.shape[-1] % 64 == 0)


def interleave(a: mx.array, *, dense: bool = True) -> mx.array:
    """Regroups rows for the native kernels: a (..., N, C), N a multiple of 16, to (N/16, C, 16) in the same shape.

    Apply it to w, scales and biases alike, scales and biases with `dense=False`: elements of a dense weight of 16
    bits move in pairs. The result has the shape and dtype of `a`.
    """
    return _regroup(a, undo=False, dense=dense)


def deinterleave(a: mx.array, *, dense: bool = True) -> mx.array:
    """Undoes `interleave`."""
    return _regroup(a, undo=True, dense=dense)


def embedding_rows(
    ids: mx.array,
    w: mx.array,
    scales: mx.array | None = None,
    biases: mx.array | None = None,
    *,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str = "affine",
    interleaved: bool = False,
    dtype: mx.Dtype | None = None,
) -> mx.array:
    """Rows of a dense matrix w (N, D), or of one packed by `mx.quantize`, by token id: ids (...) -> (..., D).

    In `dtype`, without it that of the dense elements or the scales. `interleaved`: w, scales and biases went through
    `interleave`. Equal to indexing and `mx.dequantize` to the last bit; ids must be within 0..N-1.
    """
    module = native.extension()
    number = w if scales is None else scales
    if (
        module is not None
        and number.dtype in _FLOATS
        and (scales is None or _serves(mode, group_size or 0, bits or 0, scales, scales, biases))
    ):
        y = module.embedding_rows(
            ids, w, scales, biases, group_size or 0, bits or 0, interleaved, dtype or number.dtype
        )
        if y is not None:
            return y

    def take(a: mx.array) -> mx.array:
        return _interleaved_rows(a, ids, dense=scales is None) if interleaved else a[ids]

    rows = take(w)
    if scales is not None:
        offsets = None if biases is None else take(biases)
        rows = mx.dequantize(rows, take(scales), offsets, group_size=group_size, bits=bits, mode=mode)
    return rows if dtype is None else rows.astype(dtype)


def _interleaved_rows(a: mx.array, rows: mx.array, *, dense: bool) -> mx.array:
    """Rows (...) of an interleaved matrix a (N, C) in their plain order, (..., C)."""
    if dense and a.itemsize == 2:
        return _interleaved_rows(a.view(mx.uint32), rows, dense=False).view(a.dtype)
    return a.reshape(-1, a.shape[-1], 16)[rows // 16, :, rows % 16]


def _regroup(a: mx.array, *, undo: bool, dense: bool) -> mx.array:
    module = native.extension()
    if module is not None:
        return module.interleave(a, undo, dense)
    if dense and a.itemsize == 2:
        return _regroup(a.view(mx.uint32), undo=undo, dense=False).view(a.dtype)
    inner = (a.shape[-1], 16) if undo else (16, a.shape[-1])
    return a.reshape(*a.shape[:-2], a.shape[-2] // 16, *inner).swapaxes(-1, -2).reshape(a.shape)


def _plain_layout(w: mx.array, scales: mx.array, biases: mx.array | None) -> tuple[mx.array, mx.array, mx.array | None]:
    plain = deinterleave(w), deinterleave(scales, dense=False)
    return *plain, None if biases is None else deinterleave(biases, dense=False)
