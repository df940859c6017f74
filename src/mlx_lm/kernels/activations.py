"""Activation functions by the names that Hugging Face configs use, and their gated products."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

__all__ = ["ACTIVATIONS", "activation", "gated_activation"]


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


def activation(x: mx.array, name: str) -> mx.array:
    """Applies the activation `name` (a Hugging Face `hidden_act`) elementwise."""
    return ACTIVATIONS[name](x)


def gated_activation(gate: mx.array, up: mx.array, name: str) -> mx.array:
    """`act(gate) * up`: SwiGLU for "silu", GeGLU for the gelus. Source: https://arxiv.org/abs/2002.05202."""
    return ACTIVATIONS[name](gate) * up
