"""Arcee AFM: a feed-forward without gate, squared ReLU. Source: https://huggingface.co/arcee-ai/AFM-4.5B."""

from ..nn import MLP
from .parts import DenseModel, LlamaArgs


class ModelArgs(LlamaArgs):
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096
    hidden_act: str = "relu2"


class Model(DenseModel):
    feed_forward_type = MLP
