"""Rounding to the grids of small floats."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from float64.deepseek_v41 import _FP4, _FP8, nearest

from mlx_lm.nn.rounding import _e2m1, _e4m3, rounded_fp4, rounded_fp8

WAYS = {"fp8": rounded_fp8, "fp4": rounded_fp4, "fine": lambda x: rounded_fp4(x, fine=True)}


def test_eight_bits_are_mlx_own() -> None:
    x = mx.random.normal((64, 64), key=mx.random.key(0)) * mx.exp(mx.random.normal((64, 1), key=mx.random.key(1)) * 4)
    x = mx.clip(x, -448, 448)
    np.testing.assert_array_equal(_e4m3(x), mx.from_fp8(mx.to_fp8(x), mx.float32))


def test_ties_go_to_even_places() -> None:
    for grid, ours in ((_FP4, _e2m1), (_FP8, _e4m3)):
        middles = (grid[1:] + grid[:-1]) / 2
        x = np.concatenate([grid, middles, -middles, [grid[-1] * 1.5]])
        np.testing.assert_array_equal(ours(mx.array(x, mx.float32)), nearest(x, grid).astype(np.float32))


@pytest.mark.parametrize("way", WAYS)
def test_what_is_rounded_stays(way: str) -> None:
    """Twice is once, half types hold the values, zeros stay, and gradients pass."""
    rounded = WAYS[way]
    for x in (mx.random.normal((5, 96), key=mx.random.key(2)), mx.zeros((1, 32)), mx.full((1, 32), 1e-30)):
        once = rounded(x)
        np.testing.assert_array_equal(rounded(once), once)
        np.testing.assert_array_equal(once.astype(mx.bfloat16).astype(mx.float32), once)
        assert (mx.grad(lambda a: rounded(a).sum())(x) == 1).all().item()
    assert mx.abs(rounded(mx.random.normal((5, 96))) - 0).max().item() > 0


@pytest.mark.parametrize(("way", "largest"), [("fp8", 1 / 16), ("fp4", 1 / 3), ("fine", 1 / 3)])
def test_errors_are_small(way: str, largest: float) -> None:
    x = mx.random.normal((64, 64), key=mx.random.key(3))
    assert mx.abs(WAYS[way](x) - x).max().item() < largest * mx.abs(x).max().item()
