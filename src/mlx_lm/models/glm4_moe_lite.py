"""GLM-4.7-Flash: DeepSeek-V3's attention and routing in other sizes."""

from . import deepseek_v3


class ModelArgs(deepseek_v3.ModelArgs):
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 202752
    q_lora_rank: int | None = 768
    qk_nope_head_dim: int = 192
    v_head_dim: int = 256
    n_routed_experts: int | None = 64
    num_experts_per_tok: int | None = 4
    moe_intermediate_size: int = 1536
    first_k_dense_replace: int = 1
    n_group: int | None = 1
    topk_group: int | None = 1
    routed_scaling_factor: float = 1.8


Model = deepseek_v3.Model
