"""MiniCPM: Llama with multipliers on embeddings, branches and logits. Source: https://arxiv.org/abs/2404.06395."""

from typing import Any

from .parts import DecoderArgs, DenseModel


class ModelArgs(DecoderArgs):
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    scale_emb: float = 1.0
    scale_depth: float = 1.0
    dim_model_base: float = 1.0


class ScaledModel(DenseModel):
    """The multipliers that both MiniCPMs have."""

    def residual_scale(self, args: Any) -> float:
        return args.scale_depth / args.num_hidden_layers**0.5

    def embed_scale(self, args: Any) -> float:
        return args.scale_emb

    def logit_scale(self, args: Any) -> float:
        return args.dim_model_base / args.hidden_size


Model = ScaledModel
