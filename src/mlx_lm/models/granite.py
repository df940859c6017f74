"""Granite: multipliers on embeddings, scores, residuals and logits. Source: https://arxiv.org/abs/2405.04324."""

from .parts import DenseModel, LlamaArgs


class ModelArgs(LlamaArgs):
    embedding_multiplier: float = 1.0
    attention_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0


Model = DenseModel
