"""Jais 2: layer norms, squared ReLU without gate, biases everywhere. Source: https://huggingface.co/inceptionai."""

from . import arcee

Model = arcee.Model


class ModelArgs(arcee.ModelArgs):
    layer_norm_eps: float = 1e-5
    max_position_embeddings: int = 8192
    attention_bias: bool = True
    mlp_bias: bool = True
