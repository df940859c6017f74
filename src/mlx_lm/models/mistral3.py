"""Mistral Small 3.1 and later, Ministral 3, Devstral: the text tower. https://huggingface.co/mistralai."""

from . import ministral3, mistral
from .multimodal import NamedText, NamedTextTower

__all__ = ["Model", "ModelArgs"]


class ModelArgs(NamedText):
    texts = {"mistral": mistral, "ministral3": ministral3}
    usual = "mistral"


class Model(NamedTextTower):
    texts = ModelArgs.texts
