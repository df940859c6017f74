"""VaultGemma: Gemma 2 with norms only before the branches. Source: https://arxiv.org/abs/2510.15001."""

from ..nn import LayerNames
from . import gemma2

ModelArgs = gemma2.ModelArgs


class Model(gemma2.Model):
    layer_names = LayerNames(pre_feed_forward="pre_feedforward_layernorm")
