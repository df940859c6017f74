"""Ling 3: delta layers that forget by channel, gated latent attention between, DeepSeek-V3's experts.

Source: https://huggingface.co/inclusionAI.
"""

from collections.abc import Mapping
from typing import Any, Self

import mlx.core as mx

from ..nn import ChannelDelta, LatentAttention, named
from . import deepseek_v3, kimi_linear
from .parts import Rename, Rule, Split, refuse


class ModelArgs(kimi_linear.ModelArgs):
    aliases = kimi_linear.ModelArgs.aliases | {
        "num_local_experts": "n_routed_experts", "short_conv_kernel_size": "linear_conv_kernel_dim",
    }  # fmt: skip
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 262144
    rope_theta: float = 6000000.0
    n_routed_experts: int | None = 512
    n_shared_experts: int | None = 1
    moe_intermediate_size: int = 768
    first_k_dense_replace: int = 2
    n_group: int | None = 8
    topk_group: int | None = 4
    linear_head_dim: int = 0
    linear_num_heads: int = 0
    layer_group_size: int = 6
    kda_safe_gate: bool = True
    kda_lower_bound: float | None = -5.0

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """As for every family; what the models' own code wrote has more options than what transformers reads."""
        names = config.get("architectures")
        own = names[0] if isinstance(names, list) and names else None
        refuse(own == "BailingMoeV2_5ForCausalLM", f"architecture {own!r} (Ling 2.5) is not supported")
        if cls is ModelArgs and own == "BailingMoeV3ForCausalLM":
            from . import bailing_moe_v3

            return bailing_moe_v3.ModelArgs.from_dict(config)  # type: ignore[return-value]
        return super().from_dict(config)

    @classmethod
    def prepared(cls, flat: dict[str, Any]) -> dict[str, Any]:
        """Queries are projected directly, whatever a config says."""
        return flat | {"q_lora_rank": None}

    def __post_init__(self) -> None:
        # Published configs give the delta layers' sizes as the attention's.
        self.linear_head_dim = self.linear_head_dim or self.head_dim or 128
        self.linear_num_heads = self.linear_num_heads or self.num_attention_heads
        self.kda_lower_bound = self.kda_lower_bound if self.kda_safe_gate else None
        super().__post_init__()

    def attends(self, index: int) -> bool:
        return (index + 1) % self.layer_group_size == 0


class GatedLatentAttention(LatentAttention):
    """Each head's output has a sigmoid gate."""

    gate_name, per_head, out_name = "g_proj", True, "dense"

    def _gate(self, x: mx.array) -> mx.array | None:
        gate = super()._gate(x)
        return None if gate is None else gate.astype(mx.float32)


class Model(deepseek_v3.Model):
    mixer_type = GatedLatentAttention
    linear_type = named(ChannelDelta, out_name="dense")

    def weight_rules(self) -> tuple[Rule, ...]:
        parts = tuple(rf"\1.{name}_conv1d.weight" for name in "qkv")
        return (
            Rename(r"\.word_embeddings\.", ".embed_tokens."),
            Rename(r"\.attention\.", ".self_attn."),
            Rename(r"\.self_attn\.o_proj\.", ".self_attn.dense."),
            Rename(r"\.gate\.expert_bias$", ".gate.e_score_correction_bias"),
            *super().weight_rules(),
            Rename(r"\.self_attn\.forget_gate\.", ".self_attn."),
            Split(r"(.*\.self_attn)\.conv1d\.weight", parts),
        )
