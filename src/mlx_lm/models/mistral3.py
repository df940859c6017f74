"""Mistral Small 3.1 and later, Ministral 3, Devstral: the text tower. https://huggingface.co/mistralai."""

from typing import ClassVar

from . import ministral3, mistral
from .multimodal import NamedText, NamedTextTower

__all__ = ["Model", "ModelArgs"]


class ModelArgs(NamedText):
    texts: ClassVar = {"mistral": mistral, "ministral3": ministral3}
    usual: ClassVar = "mistral"


class Model(NamedTextTower):
    texts: ClassVar = ModelArgs.texts
