"""Compass, Cohere's vision models' text model: Command R's layers with windows; each kind has its own rope, or none.

Source: https://huggingface.co/CohereLabs/North-Micro-Vision-Instruct.
"""

from typing import Any

from ..nn import RopeParameters
from . import cohere2
from .cohere import Model as Cohere
from .config import refuse


class ModelArgs(cohere2.ModelArgs):
    logit_scale: float = 1.0

    def __post_init__(self) -> None:
        self.layer_types = self.layer_types or ["full_attention"] * self.num_hidden_layers
        super().__post_init__()
        refuse(self.rope_by_layer_type is None, "rope_parameters must have an entry for each kind in layer_types")

    def layer_rope(self, index: int) -> RopeParameters:
        return self.rope_parameters(self.layer_type(index))


class Model(Cohere):
    traditional_rope = False

    def has_rope(self, args: Any, index: int) -> bool:
        return args.layer_type(index) in args.rope_by_layer_type
