"""Ling 3 as its own code writes it: `bailing_hybrid` with compressed queries and more options.

Source: https://huggingface.co/inclusionAI.
"""

from typing import Any

from ..errors import ConfigError
from . import bailing_hybrid

# Options that published configs list and leave off.
_OFF = dict.fromkeys((
    "expert_swiglu_limit_list", "pregate_inference", "scale_router_input", "share_expert_swiglu_limit_list",
    "up_proj_norm", "use_bias", "use_kda_lora", "use_mla_nope", "use_nGPT", "value_norm",
), (False, []))  # fmt: skip


class ModelArgs(bailing_hybrid.ModelArgs):
    fixed = {**bailing_hybrid.ModelArgs.fixed, **_OFF, "moe_router_enable_expert_bias": (True,)}
    aliases = {
        **bailing_hybrid.ModelArgs.aliases,
        "score_function": "scoring_func",
        "use_qkv_bias": "attention_bias",
    }
    q_lora_rank: int | None = None
    moe_shared_expert_intermediate_size: int | None = None
    gated_attention_proj_granularity_type: str | None = "head_wise"
    no_kda_lora: bool = True
    use_qk_norm: bool = True  # of the delta layers, which have it always

    @classmethod
    def prepared(cls, flat: dict[str, Any]) -> dict[str, Any]:
        """The share that is rotated is of a head that these layers do not have."""
        return {k: v for k, v in flat.items() if k != "partial_rotary_factor"}

    def __post_init__(self) -> None:
        rank = self.q_lora_rank
        super().__post_init__()
        self.q_lora_rank = rank
        if self.gated_attention_proj_granularity_type != "head_wise" or not self.no_kda_lora:
            raise ConfigError("config.json: no_kda_lora must be true, and the gates 'head_wise', for 'bailing_moe_v3'.")

    def attends(self, index: int) -> bool:
        size = self.layer_group_size
        return super().attends(index) or index >= self.num_hidden_layers // size * size

    @property
    def shared_size(self) -> int:
        return self.moe_shared_expert_intermediate_size or self.moe_intermediate_size


class Model(bailing_hybrid.Model):
    pass
