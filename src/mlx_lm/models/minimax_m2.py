"""MiniMax-M2: norms on all heads together, sigmoid routing with a selection bias. https://arxiv.org/abs/2605.26494."""

from ..nn import MoE, named
from . import mixtral
from .config import DecoderArgs


class ModelArgs(DecoderArgs):
    fixed = {"scoring_func": ("sigmoid",), "use_qk_norm": (True,)}
    head_dim: int | None = 128
    max_position_embeddings: int = 196608
    rotary_dim: int | None = None
    partial_rotary_factor: float = 1.0
    num_local_experts: int = 256
    num_experts_per_tok: int = 8


Experts = named(MoE, correction_on_router=False)


class Model(mixtral.Model):
    qk_norm = True
    moe_type = Experts
    moe_options = {"correction": True}
    routing_options = {"score": "sigmoid"}
    attention = {"qk_norm_full": True}
