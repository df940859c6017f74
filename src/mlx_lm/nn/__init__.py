"""Blocks that families are built from."""

from typing import TYPE_CHECKING

from ..lazy import lookup

if TYPE_CHECKING:
    from .attention import Attention, AttentionOptions, GatedAttention, HeadwiseAttention, OutProjAttention
    from .biased import AlibiAttention, BiasedAttention, alibi_slopes
    from .conv import CausalConv, ShortConv
    from .decoder import POST_NORM, PRE_NORM, SANDWICH_NORM, DecoderLayer, LayerNames, Mixer, NormedSumLayer
    from .gated_delta import ChannelDelta, DeltaOptions, GatedDelta, SeparateDelta, delta_state_dtype, unit_heads
    from .latent import HeadLinear, LatentAttention, LatentOptions, QuantizedHeadLinear
    from .linear import Embedding, Linear, QuantizedEmbedding, QuantizedLinear, QuantizedSwitchLinear, SwitchLinear
    from .mamba import Mamba, Mamba2, Mamba2Options, MambaOptions
    from .mlp import MLP, GatedActivation, GatedMLP, gated
    from .moe import MoE, NestedRouter, Routing, SwitchGLU, SwitchMLP, in_expert_order, route
    from .mtp import NextTokenHead
    from .norm import GatedRMSNorm, HeadNorm, LayerNorm, RMSNorm, UnitRMSNorm
    from .parameters import named
    from .rope import Rope, RopeParameters, make_rope
    from .sparse_mixer import SparseMixer

__all__ = [
    "MLP", "POST_NORM", "PRE_NORM", "SANDWICH_NORM", "AlibiAttention", "Attention", "AttentionOptions",
    "BiasedAttention", "CausalConv", "ChannelDelta", "DecoderLayer", "DeltaOptions", "Embedding", "GatedActivation",
    "GatedAttention", "GatedDelta", "GatedMLP", "GatedRMSNorm", "HeadLinear", "HeadNorm", "HeadwiseAttention",
    "LatentAttention", "LatentOptions", "LayerNames", "LayerNorm", "Linear", "Mamba", "Mamba2", "Mamba2Options",
    "MambaOptions", "Mixer", "MoE", "NestedRouter", "NextTokenHead", "NormedSumLayer", "OutProjAttention",
    "QuantizedEmbedding", "QuantizedHeadLinear", "QuantizedLinear", "QuantizedSwitchLinear", "RMSNorm", "Rope",
    "RopeParameters", "Routing", "SeparateDelta", "ShortConv", "SparseMixer", "SwitchGLU", "SwitchLinear",
    "SwitchMLP", "UnitRMSNorm", "alibi_slopes", "delta_state_dtype", "gated", "in_expert_order", "make_rope", "named",
    "route", "unit_heads",
]  # fmt: skip

__getattr__ = lookup(
    __name__,
    {
        "attention": "Attention AttentionOptions GatedAttention HeadwiseAttention OutProjAttention",
        "biased": "AlibiAttention BiasedAttention alibi_slopes",
        "conv": "CausalConv ShortConv",
        "decoder": "POST_NORM PRE_NORM SANDWICH_NORM DecoderLayer LayerNames Mixer NormedSumLayer",
        "gated_delta": "ChannelDelta DeltaOptions GatedDelta SeparateDelta delta_state_dtype unit_heads",
        "latent": "HeadLinear LatentAttention LatentOptions QuantizedHeadLinear",
        "linear": "Embedding Linear QuantizedEmbedding QuantizedLinear QuantizedSwitchLinear SwitchLinear",
        "mamba": "Mamba Mamba2 Mamba2Options MambaOptions",
        "mlp": "MLP GatedActivation GatedMLP gated",
        "moe": "MoE NestedRouter Routing SwitchGLU SwitchMLP in_expert_order route",
        "mtp": "NextTokenHead",
        "norm": "GatedRMSNorm HeadNorm LayerNorm RMSNorm UnitRMSNorm",
        "parameters": "named",
        "rope": "Rope RopeParameters make_rope",
        "sparse_mixer": "SparseMixer",
    },
)
