"""Rotary position embeddings in all flavours that configs name (see `RopeParameters.kind`).

Sources: RoPE https://arxiv.org/abs/2104.09864, YaRN https://arxiv.org/abs/2309.00071, LongRoPE
https://arxiv.org/abs/2402.13753, Llama 3.1 https://arxiv.org/abs/2407.21783. This module reads a `RopeParameters`,
never a model config.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx

from .. import kernels
from ..errors import ConfigError

__all__ = ["Rope", "RopeParameters", "make_rope", "rotate_each"]


@dataclass(frozen=True)
class RopeParameters:
    """What a config says of its rotary embedding.

    Attributes:
        kind: "default", "linear", "dynamic", "llama3", "yarn", "longrope" (or "su"), "proportional", "mrope".
        theta: base of the geometric series of wavelengths.
        partial: share of the head size that is rotated.
        max_position: `max_position_embeddings`.
        scaling: the flavour's own numbers, by Hugging Face's names.
    """

    kind: str = "default"
    theta: float = 10000.0
    partial: float = 1.0
    max_position: int = 2048
    scaling: Mapping[str, Any] = field(default_factory=dict)

    def number(self, name: str, default: float | None = None) -> float:
        value = self.scaling.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"rope_scaling.{name} must be a number for rope type {self.kind!r}, not {value!r}.")
        return float(value)


@dataclass(eq=False)
class Rope:
    """Rotates (B, H, L, D) from a position on; holds no parameters.

    `scale` is on the rotated features: YaRN's and LongRoPE's attention factor.
    """

    dims: int
    freqs: mx.array | None = field(default=None, kw_only=True)
    base: float | None = field(default=None, kw_only=True)
    scale: float = field(default=1.0, kw_only=True)
    traditional: bool = field(default=False, kw_only=True)

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        dims = self.dims
        if self.scale != 1.0:
            turning = self.scale * x[..., :dims]
            x = turning if dims == x.shape[-1] else mx.concatenate([turning, x[..., dims:]], axis=-1)
        return kernels.rope(x, dims, traditional=self.traditional, base=self.base, freqs=self.freqs, offset=offset)


class _LengthRope(Rope):
    """A rope whose frequencies depend on how long the sequence has become; rows of a batch may differ."""

    def __init__(self, dims: int, params: RopeParameters, traditional: bool):
        super().__init__(dims, traditional=traditional)
        self.params = params

    def at_length(self, length: int) -> tuple[mx.array, float]:
        """Divisors and the factor on the rotated features, for a sequence of `length` tokens."""
        raise NotImplementedError

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        if not isinstance(offset, int):
            starts: list[Any] = offset.tolist()  # type: ignore[assignment]
            return mx.concatenate([self(x[i : i + 1], start) for i, start in enumerate(starts)], axis=0)
        freqs, scale = self.at_length(offset + x.shape[-2])
        return Rope(self.dims, freqs=freqs, scale=scale, traditional=self.traditional)(x, offset)


class _DynamicRope(_LengthRope):
    """NTK-aware scaling that starts past the trained length."""

    def at_length(self, length: int) -> tuple[mx.array, float]:
        p = self.params
        factor, trained = p.number("factor"), p.max_position
        grown = max(length, trained)
        theta = p.theta * ((factor * grown / trained) - (factor - 1)) ** (self.dims / (self.dims - 2))
        return _wavelengths(self.dims, theta), 1.0


class _LongRope(_LengthRope):
    """LongRoPE: one list of factors up to the trained length and another past it."""

    def __init__(self, dims: int, params: RopeParameters, traditional: bool):
        super().__init__(dims, params, traditional)
        self.trained = int(params.number("original_max_position_embeddings", params.max_position))
        if self.trained < 2:
            raise ConfigError(f"original_max_position_embeddings must be at least 2, not {self.trained}.")
        factor = params.number("factor", params.max_position / self.trained)
        usual = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(self.trained))
        usual = params.number("attention_factor", usual)
        base = _wavelengths(dims, params.theta)
        # Phi 3.5 MoE has a factor of its own on each side of the trained length.
        self.short = base * self._factors("short_factor"), params.number("short_mscale", usual)
        self.long = base * self._factors("long_factor"), params.number("long_mscale", usual)

    def at_length(self, length: int) -> tuple[mx.array, float]:
        return self.long if length > self.trained else self.short

    def _factors(self, name: str) -> mx.array:
        values = self.params.scaling.get(name)
        if not isinstance(values, list) or len(values) != self.dims // 2:
            raise ConfigError(f"rope_scaling.{name} must be a list of {self.dims // 2} numbers.")
        return mx.array(values, mx.float32)


def rotate_each(rope: Callable[[mx.array, mx.array], mx.array], x: mx.array, positions: mx.array) -> mx.array:
    """x (B, 1, N, D) with item n at positions[n], where these are not consecutive."""
    return rope(x.reshape(-1, 1, 1, x.shape[-1]), mx.tile(positions, x.shape[0])).reshape(x.shape)


def make_rope(head_dim: int, params: RopeParameters, *, traditional: bool = False) -> Rope:
    """The rope for heads of `head_dim`; raises ConfigError for an unknown kind or a missing number.

    `traditional` rotates neighbouring features (GPT-J) instead of the two halves (GPT-NeoX).
    """
    dims = int(head_dim * params.partial)
    kind = params.kind
    make = partial(Rope, dims, traditional=traditional)
    if kind in ("default", "mrope"):
        return make(base=params.theta)
    if kind == "proportional":
        # The first `dims` features' wavelengths are those of a rope over the whole head; the others do not turn.
        turning = _wavelengths(head_dim, params.theta)[: dims // 2] * params.number("factor", 1.0)
        freqs = mx.concatenate([turning, mx.full((head_dim // 2 - dims // 2,), mx.inf)])
        return Rope(head_dim, freqs=freqs, traditional=traditional)
    if kind == "linear":
        return make(freqs=_wavelengths(dims, params.theta) * params.number("factor"))
    if kind == "dynamic":
        return _DynamicRope(dims, params, traditional)
    if kind == "llama3":
        return make(freqs=_llama3(dims, params))
    if kind in ("yarn", "deepseek_yarn", "telechat3-yarn"):
        freqs, scale = _yarn(dims, params)
        return make(freqs=freqs, scale=scale)
    if kind in ("longrope", "su"):
        return _LongRope(dims, params, traditional)
    known = "default, linear, dynamic, llama3, yarn, longrope, proportional"
    raise ConfigError(f"rope type {kind!r} is not supported; known: {known}.")


def _divisors(dims: int, theta: float) -> list[float]:
    """theta ** (2i/dims) for i in 0..dims/2."""
    return [theta ** (2 * i / dims) for i in range(dims // 2)]


def _wavelengths(dims: int, theta: float) -> mx.array:
    return mx.array(_divisors(dims, theta), mx.float32)


def _llama3(dims: int, params: RopeParameters) -> mx.array:
    factor = params.number("factor")
    low, high = params.number("low_freq_factor", 1.0), params.number("high_freq_factor", 4.0)
    trained = params.number("original_max_position_embeddings", 8192)

    def scaled(divisor: float) -> float:
        wavelength = 2 * math.pi * divisor
        if wavelength > trained / low:
            return divisor * factor
        if wavelength <= trained / high:
            return divisor
        smooth = (trained / wavelength - low) / (high - low)
        return 1 / ((1 - smooth) / (divisor * factor) + smooth / divisor)

    return mx.array(list(map(scaled, _divisors(dims, params.theta))), mx.float32)


def _yarn(dims: int, params: RopeParameters) -> tuple[mx.array, float]:
    """Divisors and attention factor; `truncate` rounds the correction range outwards to whole dimensions."""
    trained = params.number("original_max_position_embeddings", params.max_position)
    factor = params.scaling.get("factor")
    factor = params.max_position / trained if factor is None else params.number("factor")
    if params.theta == 1:
        raise ConfigError("rope_theta must not be 1 for rope type 'yarn'.")

    def dimension(rotations: float) -> float:
        return dims * math.log(trained / (rotations * 2 * math.pi)) / (2 * math.log(params.theta))

    low = dimension(params.number("beta_fast", 32.0))
    high = dimension(params.number("beta_slow", 1.0))
    if params.scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    span = high - low if high != low else 0.001

    result = []
    for i, divisor in enumerate(_divisors(dims, params.theta)):
        ramp = min(max((i - low) / span, 0.0), 1.0)
        result.append(1 / (ramp / (divisor * factor) + (1 - ramp) / divisor))
    return mx.array(result, mx.float32), _yarn_attention_factor(params, factor)


def _yarn_attention_factor(params: RopeParameters, factor: float) -> float:
    if params.scaling.get("attention_factor") is not None:
        return params.number("attention_factor")

    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    over, under = params.scaling.get("mscale"), params.scaling.get("mscale_all_dim")
    if over and under:
        return mscale(float(over)) / mscale(float(under))
    return mscale(1.0)
