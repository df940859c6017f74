"""Compass, Cohere's vision models' text model: Command R's layers with windows; each kind has its own rope, or none.

Source: https://huggingface.co/CohereLabs/North-Micro-Vision-Instruct.
"""

from . import cohere, cohere2
from .parts import KindRopeArgs, refuse


class ModelArgs(KindRopeArgs, cohere2.ModelArgs):
    logit_scale: float = 1.0

    def __post_init__(self) -> None:
        self.layer_types = self.layer_types or ["full_attention"] * self.num_hidden_layers
        super().__post_init__()
        refuse(self.rope_by_layer_type is None, "rope_parameters must have an entry for each kind in layer_types")


class Model(cohere.Model):
    traditional_rope = False
