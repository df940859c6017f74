"""Mistral Small 3.1 and later, Ministral 3, Devstral: the text tower. https://huggingface.co/mistralai."""

from . import ministral3, mistral
from .multimodal import named_text_tower

Model, ModelArgs = named_text_tower(__name__, "mistral", mistral=mistral, ministral3=ministral3)
