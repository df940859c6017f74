"""Phi 3, 3.5, 4 and 4-mini: fused projections, partial rotation, LongRoPE. Source: https://arxiv.org/abs/2404.14219."""

from .parts import DenseModel, SlidingArgs, refuse


class ModelArgs(SlidingArgs):
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096
    original_max_position_embeddings: int = 4096
    partial_rotary_factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rope_scaling:
            kind = self.rope_scaling.get("rope_type") or self.rope_scaling.get("type")
            known = kind in ("longrope", "su", "yarn", "default")
            refuse(not known, f"rope_scaling type {kind!r} is not supported for model type 'phi3'")
            # Early Phi checkpoints call LongRoPE "su" or "yarn".
            self.rope_scaling = {**self.rope_scaling, "rope_type": "default" if kind == "default" else "longrope"}


class Model(DenseModel):
    attention = {"fused": True}
    feed_forward_options = {"fused": True}
