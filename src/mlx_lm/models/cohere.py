"""Command R: one norm feeds attention and feed-forward in parallel. https://huggingface.co/CohereLabs/c4ai-command-r-v01."""

from typing import Any

from ..nn import Attention, HeadNorm, LayerNames
from .parts import BiasArgs, DenseModel


class ModelArgs(BiasArgs):
    layer_norm_eps: float = 1e-5
    logit_scale: float = 0.0625
    use_qk_norm: bool = False
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True


class HeadNorms(Attention):
    def add(self, args: Any, index: int) -> None:
        heads, kv_heads, size = args.heads
        if args.use_qk_norm:
            self.q_norm, self.k_norm = (HeadNorm(n, size, args.layer_norm_eps) for n in (heads, kv_heads))


class Model(DenseModel):
    attention_type = HeadNorms
    layer_names = LayerNames(pre_feed_forward=None)
    traditional_rope = True
    qk_norm = "use_qk_norm"
    norm_options = {"bias": False}
    parallel = True
