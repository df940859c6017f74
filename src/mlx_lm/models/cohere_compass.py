"""Compass, Cohere's vision models: the text tower."""

from . import cohere_compass_text
from .multimodal import TextTower

ModelArgs = cohere_compass_text.ModelArgs


class Model(TextTower):
    text_model = cohere_compass_text.Model
