"""IQuest-Coder: Llama. Source: https://huggingface.co/IQuestLab."""

from .config import LlamaArgs
from .dense import DenseModel as Model

__all__ = ["Model", "ModelArgs"]


class ModelArgs(LlamaArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 131072
