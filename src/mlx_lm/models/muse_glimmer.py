"""Muse Glimmer: the text tower. Normed embeddings, gated attention, every fourth layer without positions.

Source: https://huggingface.co/meta-models/Muse-Glimmer-30B.
"""

from typing import Any, ClassVar

from ..nn import SANDWICH_NORM, AttentionOptions, DecoderLayer, GatedAttention, RMSNorm, UnitRMSNorm, named
from .parts import CausalLM, DenseModel, NormedBackbone, SlidingArgs, TextTower, check_kinds

__all__ = ["Model", "ModelArgs", "TextModel"]


class ModelArgs(SlidingArgs):
    """What both Muses' configs have."""

    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 131072
    rope_theta: float = 500000.0
    sliding_window: int | None = 2048
    attention_bias: bool = False
    final_logit_softcapping: float = 20.0
    qk_scale_factor: float = 3.87
    output_multiplier: float = 0.19611613513818404
    post_norm_eps: float = 1e-8
    layer_rope_theta: list[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        usual = [self.rope_theta * self.slides(i) for i in range(self.num_hidden_layers)]
        self.layer_rope_theta = self.layer_rope_theta or usual
        check_kinds(self, "layer_rope_theta", (0.0, self.rope_theta))

    def slides(self, index: int) -> bool:
        return (self.num_hidden_layers - 1 - index) % 4 > 0

    def attention_scale(self, index: int) -> float:
        return self.qk_scale_factor * self.heads[2] ** -0.5


class OwnPostNorms(DecoderLayer):
    def add(self, args: Any, index: int) -> None:
        for name in ("post_attention_layernorm", "post_feedforward_layernorm"):
            self[name] = RMSNorm(args.hidden_size, args.post_norm_eps, offset=1.0)


class TextModel(DenseModel):
    backbone_type = named(NormedBackbone, weighted=False)
    layer_names = SANDWICH_NORM
    attention_type = GatedAttention
    layer_type: ClassVar[type[DecoderLayer]] = OwnPostNorms
    norm_options = {"offset": 1.0}
    final_norm = CausalLM.final_norm

    def attention_options(self, args: Any, index: int, **changes: Any) -> AttentionOptions:
        return super().attention_options(args, index, qk_norm=lambda _: UnitRMSNorm(args.rms_norm_eps), **changes)

    def logit_scale(self, args: Any) -> float:
        return args.output_multiplier


class Model(TextTower):
    text_model = TextModel
