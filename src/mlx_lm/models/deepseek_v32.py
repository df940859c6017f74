"""DeepSeek-V3.2: V3 whose queries look at the best keys only. Source: https://arxiv.org/abs/2512.02556."""

from typing import Any, ClassVar

from mlx import nn

from ..nn import make_rope
from ..nn.indexed import IndexedLatentAttention, IndexOptions
from . import deepseek_v3
from .config import refuse


class ModelArgs(deepseek_v3.ModelArgs):
    per_layer = {"layer_types": ("indexed_attention", "full_attention", "deepseek_sparse_attention")}
    max_position_embeddings: int = 163840
    layer_types: list[str] | None = None
    index_n_heads: int = 64
    index_head_dim: int = 128
    index_topk: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(self.q_lora_rank is None, "q_lora_rank must be given")
        wrong = self.index_head_dim % 2 or self.index_head_dim < self.qk_rope_head_dim
        refuse(wrong, "index_head_dim must be even and at least qk_rope_head_dim")


class Model(deepseek_v3.Model):
    mixer_type: ClassVar[type[IndexedLatentAttention]] = IndexedLatentAttention
    traditional_index: ClassVar[bool] = False  # the indexer rotates neighbouring features

    def mixer(self, args: Any, index: int) -> nn.Module:
        return self.mixer_type(self.latent_options(args, index), self.index_options(args, index))

    def index_options(self, args: Any, index: int) -> IndexOptions | None:
        rope = make_rope(args.qk_rope_head_dim, args.rope_parameters(), traditional=self.traditional_index)
        return IndexOptions(args.index_n_heads, args.index_head_dim, args.index_topk, rope)
