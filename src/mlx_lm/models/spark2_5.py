"""Spark X2.5: sliding layers with a rope of their own, gates for each head, exact GELU.

Source: https://huggingface.co/XHToken/Spark-X2.5-4B.
"""

from ..errors import ConfigError
from .base import ModelNames
from .dense import DenseModel, SlidingArgs
from .step3p5 import HeadGates


class ModelArgs(SlidingArgs):
    hidden_act: str = "gelu"
    tie_word_embeddings: bool = True
    max_position_embeddings: int = 8192
    sliding_window: int | None = 512
    sliding_window_pattern: int | None = 4
    mlp_bias: bool = False
    gate_attn_act_mode: str = "sigmoid"
    headwise_attn_output_gate: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.headwise_attn_output_gate or self.gate_attn_act_mode != "sigmoid" or self.hidden_act != "gelu":
            raise ConfigError("config.json: 'spark2_5' needs gelu, and headwise gates with a sigmoid.")


class FusedHeadGates(HeadGates):
    qkv_name, out_name = "q_k_v_proj", "out_proj"


class Model(DenseModel):
    names = ModelNames(embed="embedding")
    attention_type = FusedHeadGates
    attention = {"fused": True}
