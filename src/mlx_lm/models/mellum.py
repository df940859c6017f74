"""JetBrains' Mellum 2: Qwen 3 with experts, windows, and a rope for each layer type. https://huggingface.co/JetBrains."""

from .laguna import LayerTypeArgs
from .parts import DenseModel, Drop, expert_rules


class ModelArgs(LayerTypeArgs):
    head_dim: int | None = 128
    max_position_embeddings: int = 131072
    rope_theta: float = 500000.0
    rope_local_base_freq: float | None = 10000.0
    sliding_window: int | None = 1024
    num_experts: int = 64
    num_experts_per_tok: int = 8
    moe_intermediate_size: int = 896
    norm_topk_prob: bool = True


class Model(DenseModel):
    qk_norm = True
    rules = (Drop(r"^mtp\."), *expert_rules())
