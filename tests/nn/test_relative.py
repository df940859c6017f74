"""Attention by learned distances."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_lm.nn import AttentionOptions, relative
from mlx_lm.nn.parameters import flat_parameters


@pytest.mark.parametrize("window", [None, 5])
def test_biases_in_parts_are_the_biases_as_a_whole(monkeypatch: pytest.MonkeyPatch, window: int | None) -> None:
    mx.random.seed(3)
    options = AttentionOptions(32, 4, 2, 8, None, window=window)
    block = relative.RelativeAttention(options, relative.RelativeOptions(4, 6, 3, floor=4, alpha=0.5))
    block.load_weights([(k, mx.random.normal(v.shape) * 0.3) for k, v in flat_parameters(block)])
    x = mx.random.normal((2, 13, 32))
    whole = block(x)
    state = block.state_spec().create()
    monkeypatch.setattr(relative, "_BIAS_BYTES", 4 * 2 * 4 * 13 * 3)  # three queries at a time
    pieces = mx.concatenate([block(x[:, :4], state), block(x[:, 4:], state)], axis=1)
    assert mx.abs(block(x) - whole).max().item() < 1e-5
    assert mx.abs(pieces - whole).max().item() < 1e-5
