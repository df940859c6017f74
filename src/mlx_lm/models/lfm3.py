"""LFM3: LFM2 with sliding attention between, norms after each branch and a gate for each attention head.

Source: https://huggingface.co/LiquidAI/LFM3-1.7B.
"""

from dataclasses import field
from typing import Any

import mlx.nn as nn

from ..nn import Attention, GatedAttention, LayerNames, named
from . import lfm2
from .parts import Rename, SlidingArgs


def _usual_rope() -> dict[str, Any]:
    full = {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.5}
    return {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}, "full_attention": full}


class ModelArgs(SlidingArgs):
    kinds = "conv", "full_attention", "sliding_attention"
    aliases = {"norm_eps": "rms_norm_eps"}
    rms_norm_eps: float = 1e-5
    head_dim: int | None = 128
    max_position_embeddings: int = 128000
    tie_word_embeddings: bool = True
    rope_by_layer_type: dict[str, Any] | None = field(default_factory=_usual_rope)
    attention_bias: bool = False
    conv_bias: bool = False
    conv_L_cache: int = 7
    sliding_window: int | None = 256
    use_attention_gate: bool = True
    use_sandwich_norm: bool = True

    def __post_init__(self) -> None:
        usual = ("sliding_attention", "conv", "full_attention", "conv")
        self.layer_types = self.layer_types or [usual[i % 4] if i else "conv" for i in range(self.num_hidden_layers)]
        super().__post_init__()

    def is_linear(self, index: int) -> bool:
        return self.layer_type(index) == "conv"


class Model(lfm2.Model):
    rules = (Rename(r"\.self_attn\.g_proj\.", ".self_attn.gate_proj."),)

    def names_at(self, args: Any, index: int) -> LayerNames:
        mixer = "conv" if args.is_linear(index) else "self_attn"
        after = ("post_operator_norm", "post_ffn_norm") if args.use_sandwich_norm else (None, None)
        return LayerNames(mixer, "feed_forward", "operator_norm", after[0], "ffn_norm", after[1])

    def mixer(self, args: Any, index: int) -> nn.Module | None:
        kind = named(GatedAttention, per_head=True) if args.use_attention_gate else Attention
        return kind(self.attention_options(args, index))
