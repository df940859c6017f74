"""Activation functions by the names that Hugging Face configs use, and their gated products."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from . import native

_FLOATS = (mx.float32, mx.bfloat16, mx.float16)

__all__ = ["ACTIVATIONS", "NATIVE_NAMES", "activation", "gated_activation"]


def _gelu_tanh(x: mx.array) -> mx.array:
    # The tanh form; configs that say "gelu" mean the exact erf form, and the difference is 1e-4 to 3e-4.
    return nn.gelu_approx(x)


def _relu2(x: mx.array) -> mx.array:
    return mx.square(mx.maximum(x, 0))


ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "silu": nn.silu,
    "swish": nn.silu,
    "gelu": nn.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": nn.gelu_fast_approx,
    "relu": nn.relu,
    "relu2": _relu2,
    "sigmoid": mx.sigmoid,
    "tanh": mx.tanh,
}

# Names of the native kernels.
NATIVE_NAMES: dict[str, str] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}


def activation(x: mx.array, name: str) -> mx.array:
    """Applies the activation `name` (a Hugging Face `hidden_act`) elementwise."""
    module = native.extension()
    if module is not None and x.dtype in _FLOATS and x.ndim > 0:
        return module.activation(x, None, NATIVE_NAMES[name])
    return ACTIVATIONS[name](x)


def gated_activation(gate: mx.array, up: mx.array, name: str) -> mx.array:
    """`act(gate) * up`: SwiGLU for "silu", GeGLU for the gelus. Source: https://arxiv.org/abs/2002.05202."""
    module = native.extension()
    if module is not None and gate.dtype in _FLOATS and up.dtype in _FLOATS and gate.shape == up.shape and gate.ndim:
        return module.activation(gate, up, NATIVE_NAMES[name])
    return ACTIVATIONS[name](gate) * up
