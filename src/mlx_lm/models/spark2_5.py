"""Spark X2.5: sliding layers with a rope of their own, gates for each head, exact GELU.

Source: https://huggingface.co/XHToken/Spark-X2.5-4B.
"""

from ..nn import named
from .parts import DenseModel, ModelNames, SlidingArgs
from .step3p5 import HeadGates


class ModelArgs(SlidingArgs):
    fixed = {"gate_attn_act_mode": ("sigmoid",), "headwise_attn_output_gate": (True,), "hidden_act": ("gelu",)}
    hidden_act: str = "gelu"
    tie_word_embeddings: bool = True
    max_position_embeddings: int = 8192
    sliding_window: int | None = 512
    sliding_window_pattern: int | None = 4
    mlp_bias: bool = False


class Model(DenseModel):
    names = ModelNames(embed="embedding")
    attention_type = named(HeadGates, qkv_name="q_k_v_proj", out_name="out_proj")
    attention = {"fused": True}
