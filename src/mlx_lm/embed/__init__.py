"""Embedding models: texts to vectors. Encoders of the BERT kind, in the folder layout of sentence-transformers."""

from .bert import Encoder, EncoderArgs
from .model import EMBEDDING_TYPES, EmbeddingModel, is_embedding_config, load_embedding_model

__all__ = [
    "EMBEDDING_TYPES",
    "EmbeddingModel",
    "Encoder",
    "EncoderArgs",
    "is_embedding_config",
    "load_embedding_model",
]
