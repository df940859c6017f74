"""Random operands of the kernels, and their values in float64 for oracles."""

import mlx.core as mx
import numpy as np


def array(seed: int, shape: tuple[int, ...], dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape), mx.float32).astype(dtype)


def as_float64(a: mx.array) -> np.ndarray:
    return np.array(a.astype(mx.float32)).astype(np.float64)
