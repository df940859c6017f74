"""LLaVA: the text tower, a Llama, Mistral, Qwen 2 or Gemma. Source: https://arxiv.org/abs/2304.08485."""

from . import gemma, llama, mistral, qwen2
from .multimodal import NamedText, NamedTextTower

__all__ = ["Model", "ModelArgs"]


class ModelArgs(NamedText):
    texts = {"llama": llama, "mistral": mistral, "qwen2": qwen2, "gemma": gemma}
    usual = "llama"


class Model(NamedTextTower):
    texts = ModelArgs.texts
