"""MiniCPM 3: latent attention, scaled embeddings, residuals and logits. Source: https://arxiv.org/abs/2404.06395."""

from . import deepseek_v2
from .minicpm import ScaledModel


class ModelArgs(deepseek_v2.ModelArgs):
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 32768
    tie_word_embeddings: bool = True
    q_lora_rank: int | None = 768
    kv_lora_rank: int = 256
    qk_nope_head_dim: int = 64
    qk_rope_head_dim: int = 32
    v_head_dim: int = 0  # hidden_size / num_attention_heads
    rope_interleave: bool = False
    original_max_position_embeddings: int | None = None
    n_routed_experts: int | None = None
    scale_emb: float = 12.0
    scale_depth: float = 1.4
    dim_model_base: float = 256.0

    def __post_init__(self) -> None:
        self.v_head_dim = self.v_head_dim or self.hidden_size // self.num_attention_heads
        super().__post_init__()


class Model(ScaledModel, deepseek_v2.Model):
    pass
