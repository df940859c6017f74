"""StarCoder 2: biased layer norms and projections, a window in every layer. Source: https://arxiv.org/abs/2402.19173."""

from ..nn import MLP, named
from .dense import DenseModel, SlidingArgs


class ModelArgs(SlidingArgs):
    aliases = {"norm_epsilon": "layer_norm_eps"}
    layer_norm_eps: float = 1e-5
    use_bias: bool = True
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 4096
    tie_word_embeddings: bool = True


FeedForward = named(MLP, up_name="c_fc", down_name="c_proj")


class Model(DenseModel):
    feed_forward_type = FeedForward
