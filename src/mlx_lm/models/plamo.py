"""PLaMo: parallel branches after one norm; query heads take key heads in turn. https://huggingface.co/pfnet/plamo-13b."""

import mlx.core as mx

from ..kernels import KVView
from ..nn import Attention, LayerNames
from .parts import DecoderArgs, DenseModel, Rename


class ModelArgs(DecoderArgs):
    multiples = {"num_attention_heads": "n_shared_head"}
    n_shared_head: int = 8

    def __post_init__(self) -> None:
        self.num_key_value_heads = self.num_attention_heads // self.n_shared_head
        super().__post_init__()


class TurnAttention(Attention):
    """Query head i reads key head i modulo their number."""

    def _attend(self, queries: mx.array, views: tuple[KVView, ...], position: int | mx.array) -> mx.array:
        kv_heads = self._options.num_kv_heads
        queries = mx.unflatten(queries, 1, (-1, kv_heads)).swapaxes(1, 2).flatten(1, 2)
        out = super()._attend(queries, views, position)
        return mx.unflatten(out, 1, (kv_heads, -1)).swapaxes(1, 2).flatten(1, 2)


class Model(DenseModel):
    layer_names = LayerNames(pre_mixer="norm", pre_feed_forward=None)
    attention_type = TurnAttention
    parallel = True
    rules = (Rename(r"\.layers\.layers\.", ".layers."),)
