"""Matrix products with dense and quantized weights, plain and gathered by expert.

Contract: every function takes weights as MLX stores them, `(out_features, in_features)` dense or packed by
`mx.quantize`, and returns what the plain MLX expression returns. Which implementation runs is decided here and
nowhere else. This module does not know about layers, states or models.
"""

import mlx.core as mx

__all__ = ["gather_matmul", "gather_quantized_matmul", "matmul", "quantized_matmul"]


def matmul(x: mx.array, w: mx.array, bias: mx.array | None = None) -> mx.array:
    """Dense product `x @ w.T (+ bias)`: x (..., K), w (N, K), bias (N,) -> (..., N)."""
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
) -> mx.array:
    """Product with a weight packed by `mx.quantize`.

    x (..., K), w (N, K*bits/32) uint32, scales and biases (N, K/group_size) -> (..., N); with
    `transpose=False`, x (..., N) -> (..., K).
    """
    return mx.quantized_matmul(
        x, w, scales=scales, biases=biases, transpose=transpose, group_size=group_size, bits=bits, mode=mode
    )


def gather_matmul(x: mx.array, w: mx.array, indices: mx.array, *, sorted_indices: bool = False) -> mx.array:
    """One dense expert per index: x (..., 1, 1, K) or (..., M, K), w (E, N, K), indices (...) -> (..., M, N)."""
    return mx.gather_mm(x, w.swapaxes(-1, -2), rhs_indices=indices, sorted_indices=sorted_indices)


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
) -> mx.array:
    """One quantized expert per index: as `gather_matmul` with w packed, (E, N, K*bits/32)."""
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
