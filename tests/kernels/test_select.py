"""Selection over vocabularies against MLX."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_lm.kernels.select import argmax


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (17,), (3, 1000), (2, 2, 49152)])
def test_argmax(dtype, shape):
    x = mx.array(np.random.default_rng(0).standard_normal(shape), mx.float32).astype(dtype)
    assert mx.array_equal(argmax(x), mx.argmax(x, axis=-1))


def test_first_of_equals_and_infinities():
    x = mx.zeros((2, 600))
    x[0, 300], x[0, 500], x[1] = 1.0, 1.0, -mx.inf
    assert argmax(x).tolist() == [300, 0]
    assert argmax(mx.swapaxes(x, 0, 1)[:5]).tolist() == [0] * 5
