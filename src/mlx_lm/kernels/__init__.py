"""One function per operation; the only room that knows which implementation runs.

Every function has the plain MLX expression as its fallback and its oracle. Callers name an operation, never a
device or an instruction set.
"""

from .activations import ACTIVATIONS, activation, gated_activation
from .attention import KVView, QuantizedTensor, attention, latent_attention, visible
from .linear import embedding_rows, gather_matmul, gather_quantized_matmul, matmul, quantized_matmul
from .norm import layer_norm, rms_norm
from .recurrent import causal_conv, diagonal_scan, gated_delta, linear_recurrence, selective_scan
from .rope import rope
from .select import argmax, draw, log_softmax, top_k, top_p

__all__ = [
    "ACTIVATIONS",
    "KVView",
    "QuantizedTensor",
    "activation",
    "argmax",
    "attention",
    "causal_conv",
    "diagonal_scan",
    "draw",
    "embedding_rows",
    "gated_activation",
    "gated_delta",
    "gather_matmul",
    "gather_quantized_matmul",
    "latent_attention",
    "layer_norm",
    "linear_recurrence",
    "log_softmax",
    "matmul",
    "quantized_matmul",
    "rms_norm",
    "rope",
    "selective_scan",
    "top_k",
    "top_p",
    "visible",
]
