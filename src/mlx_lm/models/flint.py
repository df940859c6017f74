"""Flint: Qwen 3 with experts, attention sinks, and positions only where attention slides.

Source: https://huggingface.co/RecursiveSI/flint.
"""

from dataclasses import field

from .dense import DenseModel, SlidingArgs
from .qwen2_moe import Experts
from .weights import Rename, expert_rules


class ModelArgs(SlidingArgs):
    head_dim: int | None = 128
    max_position_embeddings: int = 262144
    attention_bias: bool = False
    sliding_window: int | None = 513
    num_experts: int = 256
    num_experts_per_tok: int = 6
    moe_intermediate_size: int = 512
    shared_expert_intermediate_size: int = 1024
    decoder_sparse_step: int = 1
    mlp_only_layers: list[int] = field(default_factory=lambda: [0, 1])
    norm_topk_prob: bool = True

    def slides(self, index: int) -> bool:
        return index >= 2 and index % 4 != 1 and index != self.num_hidden_layers - 1


class Model(DenseModel):
    rope_where_sliding = True
    moe_type = Experts
    routing_options = {"score": "sigmoid"}
    qk_norm = True
    attention = {"sinks": True}
    rules = (Rename(r"\.self_attn\.softmax_offset$", ".self_attn.sinks"), *expert_rules())
