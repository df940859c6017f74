"""OLMo Hybrid: gated delta layers before OLMo 3's attention, which has norms after and may have no positions.

Source: https://allenai.org/blog/olmo-hybrid.
"""

from typing import Any

from ..nn import POST_NORM, DeltaOptions, LayerNames, SeparateDelta
from .parts import DenseModel, LinearArgs, Rename, Rule, Split, block_options


class ModelArgs(LinearArgs):
    max_position_embeddings: int = 65536
    attention_bias: bool = False
    linear_num_key_heads: int | None = None
    linear_num_value_heads: int | None = None
    linear_key_head_dim: int | None = None
    linear_value_head_dim: int | None = None
    linear_conv_kernel_dim: int = 4
    linear_allow_neg_eigval: bool = True
    use_rope: bool = True  # not a key of configs: absent rope_parameters or rope_theta mean no positions

    @classmethod
    def prepared(cls, flat: dict[str, Any]) -> dict[str, Any]:
        """Without a rope in the config, in either spelling, attention has no positions."""
        return flat | {"use_rope": flat.get("rope_theta") is not None}

    def attends(self, index: int) -> bool:
        return index % 4 == 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.linear_num_key_heads = self.linear_num_key_heads or self.num_attention_heads
        self.linear_num_value_heads = self.linear_num_value_heads or self.num_attention_heads
        self.linear_key_head_dim = self.linear_key_head_dim or int(0.75 * self.hidden_size / self.linear_num_key_heads)
        self.linear_value_head_dim = self.linear_value_head_dim or 2 * self.linear_key_head_dim

    def linear_options(self) -> DeltaOptions:
        return block_options(DeltaOptions, self, rate=2.0 if self.linear_allow_neg_eigval else 1.0, norm_eps=1e-5)


class Model(DenseModel):
    layer_names = POST_NORM
    linear_names = LayerNames("linear_attn")
    linear_type = SeparateDelta
    qk_norm = True
    attention = {"qk_norm_full": True}

    def weight_rules(self) -> tuple[Rule, ...]:
        o = self.args.linear_options()
        parts = tuple(rf"\1.{name}_conv1d.weight" for name in "qkv")
        return (
            *super().weight_rules(),
            Split(r"(.*\.linear_attn)\.conv1d\.weight", parts, sizes=(o.key_size, o.key_size, o.value_size)),
            Rename(r"\.attention_layer_norm\.", ".input_layernorm."),
            Rename(r"\.feedforward_layer_norm\.", ".post_attention_layernorm."),
        )

    def has_rope(self, args: Any, index: int) -> bool:
        return args.use_rope
