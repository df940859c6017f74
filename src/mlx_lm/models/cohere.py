"""Command R: one norm feeds attention and feed-forward in parallel. https://huggingface.co/CohereLabs/c4ai-command-r-v01."""

from ..nn import Attention, AttentionOptions, HeadNorm, LayerNames
from .parts import BiasArgs, DenseModel


class ModelArgs(BiasArgs):
    layer_norm_eps: float = 1e-5
    logit_scale: float = 0.0625
    use_qk_norm: bool = False
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True


class HeadNorms(Attention):
    def __init__(self, options: AttentionOptions):
        super().__init__(options)
        if options.qk_norm is not None:
            self.q_norm = HeadNorm(options.num_heads, options.head_dim, self.q_norm.eps)
            self.k_norm = HeadNorm(options.num_kv_heads, options.head_dim, self.k_norm.eps)


class Model(DenseModel):
    attention_type = HeadNorms
    layer_names = LayerNames(pre_feed_forward=None)
    traditional_rope = True
    qk_norm = "use_qk_norm"
    norm_options = {"bias": False}
    parallel = True
