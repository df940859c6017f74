"""GLM-5: DeepSeek-V3.2's attention, where some layers look at the keys that a layer before them has chosen.

Source: https://arxiv.org/abs/2603.12201.
"""

from typing import Any, ClassVar

from ..nn.indexed import IndexOptions
from . import deepseek_v32
from .parts import PassingBackbone, PassingLayer, refuse

_KINDS = {"F": "full", "S": "shared"}


class ModelArgs(deepseek_v32.ModelArgs):
    per_layer = deepseek_v32.ModelArgs.per_layer | {"indexer_types": ("full", "shared")}
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 202752
    q_lora_rank: int | None = 2048
    qk_nope_head_dim: int = 192
    v_head_dim: int = 256
    n_group: int | None = 1
    topk_group: int | None = 1
    index_n_heads: int = 32
    indexer_types: list[str] | None = None
    index_topk_pattern: str | list[str] | None = None
    index_topk_freq: int = 1
    index_skip_topk_offset: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        count, skip = self.num_hidden_layers, self.index_skip_topk_offset
        if self.indexer_types is None and self.index_topk_pattern is not None:
            self.indexer_types = [_KINDS.get(kind, kind) for kind in self.index_topk_pattern]
        elif self.indexer_types is None:
            every = max(self.index_topk_freq, 1)
            self.indexer_types = ["shared" if max(i - skip + 1, 0) % every else "full" for i in range(count)]
        refuse(self.indexer_types[:1] != ["full"], "the first of indexer_types must be 'full'")


class Model(deepseek_v32.Model):
    backbone_type = PassingBackbone  # what queries look at
    layer_type = PassingLayer
    traditional_index: ClassVar[bool] = True

    def index_options(self, args: Any, index: int) -> IndexOptions | None:
        return super().index_options(args, index) if args.indexer_types[index] == "full" else None
