"""OLMoE: experts, norms on all heads together, clipped projections. Source: https://arxiv.org/abs/2409.02060."""

from .parts import BiasArgs, DenseModel, expert_rules


class ModelArgs(BiasArgs):
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096
    clip_qkv: float | None = None
    num_experts: int = 64
    num_experts_per_tok: int = 8
    norm_topk_prob: bool = False


class Model(DenseModel):
    qk_norm = True
    attention = {"qk_norm_full": True}
    rules = expert_rules()
