"""Seed-OSS: Llama with biases on queries, keys and values. Source: https://huggingface.co/ByteDance-Seed/Seed-OSS-36B-Base."""

from .parts import DecoderArgs, DenseModel


class ModelArgs(DecoderArgs):
    head_dim: int | None = 128
    attention_bias: bool = True
    attention_out_bias: bool = False
    mlp_bias: bool = False
    max_position_embeddings: int = 524288


Model = DenseModel
