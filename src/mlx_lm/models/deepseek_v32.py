"""DeepSeek-V3.2: V3 whose queries look at the best keys only. Source: https://arxiv.org/abs/2512.02556."""

from typing import Any, ClassVar

from mlx import nn

from ..errors import ConfigError
from ..nn import make_rope
from ..nn.indexed import IndexedLatentAttention, IndexOptions
from . import deepseek_v3
from .config import check_kinds


class ModelArgs(deepseek_v3.ModelArgs):
    attention_kinds = ("indexed_attention", "full_attention", "deepseek_sparse_attention")
    max_position_embeddings: int = 163840
    layer_types: list[str] | None = None
    index_n_heads: int = 64
    index_head_dim: int = 128
    index_topk: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer_types is not None:
            check_kinds(self, "layer_types", self.attention_kinds)
        sizes = (self.q_lora_rank or 0, self.index_n_heads, self.index_head_dim, self.index_topk)
        if min(sizes) < 1 or self.index_head_dim % 2 or self.index_head_dim < self.qk_rope_head_dim:
            raise ConfigError(
                "config.json: q_lora_rank and the index_... sizes must be positive, and index_head_dim even and at "
                "least qk_rope_head_dim."
            )


class Model(deepseek_v3.Model):
    mixer_type: ClassVar[type[IndexedLatentAttention]] = IndexedLatentAttention
    traditional_index: ClassVar[bool] = False  # the indexer rotates neighbouring features

    def mixer(self, args: Any, index: int) -> nn.Module:
        return self.mixer_type(self.latent_options(args, index), self.index_options(args, index))

    def index_options(self, args: Any, index: int) -> IndexOptions | None:
        rope = make_rope(args.qk_rope_head_dim, args.rope_parameters(), traditional=self.traditional_index)
        return IndexOptions(args.index_n_heads, args.index_head_dim, args.index_topk, rope)
