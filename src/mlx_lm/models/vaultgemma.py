"""VaultGemma: Gemma 2 with norms only before the branches. Source: https://arxiv.org/abs/2510.15001."""

from ..nn import LayerNames
from .gemma2 import Model as Gemma2
from .gemma2 import ModelArgs

__all__ = ["Model", "ModelArgs"]


class Model(Gemma2):
    layer_names = LayerNames(pre_feed_forward="pre_feedforward_layernorm")
