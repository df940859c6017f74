"""OLMo 2: norms after the branches, and on all heads of queries and keys together. https://arxiv.org/abs/2501.00656."""

from ..nn import POST_NORM
from .parts import BiasArgs, DenseModel


class ModelArgs(BiasArgs):
    rms_norm_eps: float = 1e-5


class Model(DenseModel):
    layer_names = POST_NORM
    qk_norm = True
    attention = {"qk_norm_full": True}
