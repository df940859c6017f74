"""Blocks that families are built from."""

from .attention import Attention, AttentionOptions
from .conv import CausalConv, ShortConv
from .decoder import POST_NORM, PRE_NORM, SANDWICH_NORM, DecoderLayer, LayerNames, Mixer
from .latent import HeadLinear, LatentAttention, LatentOptions, QuantizedHeadLinear
from .linear import Embedding, Linear, QuantizedEmbedding, QuantizedLinear, QuantizedSwitchLinear, SwitchLinear
from .mlp import MLP, GatedMLP
from .moe import MoE, Routing, SwitchGLU, route
from .norm import LayerNorm, RMSNorm
from .rope import Rope, RopeParameters, make_rope

__all__ = [
    "MLP",
    "POST_NORM",
    "PRE_NORM",
    "SANDWICH_NORM",
    "Attention",
    "AttentionOptions",
    "CausalConv",
    "DecoderLayer",
    "Embedding",
    "GatedMLP",
    "HeadLinear",
    "LatentAttention",
    "LatentOptions",
    "LayerNames",
    "LayerNorm",
    "Linear",
    "Mixer",
    "MoE",
    "QuantizedEmbedding",
    "QuantizedHeadLinear",
    "QuantizedLinear",
    "QuantizedSwitchLinear",
    "RMSNorm",
    "Rope",
    "RopeParameters",
    "Routing",
    "ShortConv",
    "SwitchGLU",
    "SwitchLinear",
    "make_rope",
    "route",
]
