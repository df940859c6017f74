"""IQuest-Coder: Llama. Source: https://huggingface.co/IQuestLab."""

from .config import DecoderArgs
from .llama import Model

__all__ = ["Model", "ModelArgs"]


class ModelArgs(DecoderArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 131072
    attention_bias: bool = False
    mlp_bias: bool = False
