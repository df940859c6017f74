"""A call through a model's layers in parts, between which others compute.

What one layer does, fused or not, is the `LayerRunner`'s business.
"""

from collections.abc import Sequence

import mlx.core as mx
from mlx import nn

from ..state import LayerState, State
from .fuse import LayerRunner

__all__ = ["Underway"]


class Underway:
    """A call of a `LayerRunner` that goes through the layers some at a time, so that others need not wait for all.

    It gives what one call gives, to the last bit. Until it is done, its states hold the new tokens in some layers only.
    """

    def __init__(
        self, runner: LayerRunner, layers: list[nn.Module], norm: nn.Module, x: mx.array, cache: Sequence[LayerState]
    ):
        self._runner, self._layers, self._norm, self._x, self._cache = runner, layers, norm, x, cache
        self._at = 0
        self._dtype: mx.Dtype | None = None  # of the fused run that it is in
        runner.prepare(layers, norm, x)

    @property
    def count(self) -> int:
        """Layers in all."""
        return len(self._layers)

    @property
    def left(self) -> int:
        """Layers to go."""
        return len(self._layers) - self._at

    def go_on(self, count: int) -> mx.array:
        """Computes `count` more layers: hidden states (B, L, D), normalized once none is left."""
        first, stop = self._at, min(self._at + count, len(self._layers))
        for i in range(first, stop):
            self._x = self._layer(i)
        self._at = stop
        mx.eval(self._x, [a for states in self._cache[first:stop] for a in _arrays(states)])
        return self._x

    def _layer(self, i: int) -> mx.array:
        runner, x, states = self._runner, self._x, self._cache[i : i + 1]
        segment = runner.segment_at(i) if runner.usable(x) else None
        if segment is not None and i == segment.start:
            self._dtype = runner.reserve(segment, x, self._cache[segment.start : segment.stop])
        if segment is None or self._dtype is None:
            y = self._layers[i](x, states[0])
            return y if i + 1 < len(self._layers) else self._norm(y)
        single = runner.single(segment, i)
        y = runner.step(single, x, states, self._dtype)
        assert y is not None, "the memory was there when the run began"
        return y if i + 1 < len(self._layers) or segment.final is not None else self._norm(y)


def _arrays(states: LayerState) -> list[mx.array]:
    each = [states] if isinstance(states, State) else states or ()
    return [array for state in each for array in state.arrays()]
