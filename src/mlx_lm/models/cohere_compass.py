"""Compass, Cohere's vision models: the text tower."""

from . import cohere_compass_text
from .multimodal import text_tower

Model, ModelArgs = text_tower(__name__, cohere_compass_text)
