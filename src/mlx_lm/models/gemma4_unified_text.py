"""Gemma 4 with one tower for all modalities: Gemma 4's text model without experts and inputs of each layer's own."""

from . import gemma4_text

Model = gemma4_text.Model


class ModelArgs(gemma4_text.ModelArgs):
    max_position_embeddings: int = 262144
    sliding_window: int | None = 1024
    hidden_size_per_layer_input: int | None = None
