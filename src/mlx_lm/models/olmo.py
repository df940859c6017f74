"""OLMo: norms without parameters, clipped projections. Source: https://arxiv.org/abs/2402.00838."""

from .parts import BiasArgs, DenseModel


class ModelArgs(BiasArgs):
    layer_norm_eps = 1e-5
    clip_qkv: float | None = None


class Model(DenseModel):
    norm_options = {"affine": False}
