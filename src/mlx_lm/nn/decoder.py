"""One decoder layer: a mixer and a feed-forward with norms before, after or around them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from ..state import LayerState, NoSpec, StateSpec

__all__ = ["POST_NORM", "PRE_NORM", "SANDWICH_NORM", "DecoderLayer", "LayerNames", "Mixer", "NormedSumLayer"]


class Mixer(Protocol):
    """A block that mixes positions: attention or a recurrence. It declares what it keeps."""

    def state_spec(self) -> StateSpec: ...

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array: ...


@dataclass(frozen=True)
class LayerNames:
    """Parameter names of a layer's parts; a norm that is None does not exist, nor do those of a missing branch."""

    mixer: str = "self_attn"
    feed_forward: str = "mlp"
    pre_mixer: str | None = "input_layernorm"
    post_mixer: str | None = None
    pre_feed_forward: str | None = "post_attention_layernorm"
    post_feed_forward: str | None = None


PRE_NORM = LayerNames()
_AFTER = {"post_mixer": "post_attention_layernorm", "post_feed_forward": "post_feedforward_layernorm"}
POST_NORM = LayerNames(pre_mixer=None, pre_feed_forward=None, **_AFTER)
SANDWICH_NORM = LayerNames(pre_feed_forward="pre_feedforward_layernorm", **_AFTER)


class DecoderLayer(nn.Module):
    """x + mixer(x), then x + feed_forward(x), each with its norms; x (B, L, D).

    Args:
        norm: makes each norm that `names` lists.
        residual_scale: factor on both branches before they are added.
        parallel: the feed-forward reads the same input as the mixer (GPT-J form).
    """

    def __init__(
        self,
        *,
        mixer: nn.Module | None,
        feed_forward: nn.Module | None = None,
        norm: Callable[[], nn.Module],
        names: LayerNames = PRE_NORM,
        residual_scale: float = 1.0,
        parallel: bool = False,
    ):
        super().__init__()
        self._names = names
        self.residual_scale = residual_scale
        self.parallel = parallel
        self._mixes, self._feeds = mixer is not None, feed_forward is not None
        if mixer is not None:
            self[names.mixer] = mixer
        if feed_forward is not None:
            self[names.feed_forward] = feed_forward
        around = (names.pre_mixer, names.post_mixer), (names.pre_feed_forward, names.post_feed_forward)
        for name in (*around[0][: 2 * self._mixes], *around[1][: 2 * self._feeds]):
            if name:
                self[name] = norm()

    def add(self, args: Any, index: int) -> None:
        """Makes what layer `index` of a family has beside branches and norms; `args` is the family's own config."""

    def state_spec(self) -> StateSpec:
        """What the layer keeps for a sequence."""
        return self[self._names.mixer].state_spec() if self._mixes else NoSpec()

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        n, start = self._names, x
        if self._mixes:
            h = self[n.pre_mixer](x) if n.pre_mixer else x
            h = self._mix(h, state)
            h = self[n.post_mixer](h) if n.post_mixer else h
            x = x + (h if self.residual_scale == 1.0 else h * self.residual_scale)
        if self._feeds:
            h = start if self.parallel else x
            # A parallel layer with one norm feeds it to both branches.
            pre = n.pre_feed_forward or (n.pre_mixer if self.parallel else None)
            h = self[pre](h) if pre else h
            h = self._feed(h)
            h = self[n.post_feed_forward](h) if n.post_feed_forward else h
            x = x + (h if self.residual_scale == 1.0 else h * self.residual_scale)
        return x

    def _mix(self, x: mx.array, state: LayerState) -> mx.array:
        """The mixer's part; families with two mixers side by side override it."""
        return self[self._names.mixer](x, state)

    def _feed(self, x: mx.array) -> mx.array:
        """The feed-forward's part; families with two side by side override it."""
        return self[self._names.feed_forward](x)


class NormedSumLayer(DecoderLayer):
    """norm(x + mixer(x)), then norm(x + feed_forward(x)): the first Transformer's form, with the pre norms' names."""

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        n = self._names
        x = self[str(n.pre_mixer)](x + self._mix(x, state))
        return self[str(n.pre_feed_forward)](x + self._feed(x))
