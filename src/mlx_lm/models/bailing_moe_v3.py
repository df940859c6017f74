"""Ling 3 as its own code writes it: `bailing_hybrid` with compressed queries and more options.

Source: https://huggingface.co/inclusionAI.
"""

from typing import Any

from . import bailing_hybrid
from .config import refuse

# Options that published configs list and leave off.
_OFF = dict.fromkeys((
    "expert_swiglu_limit_list", "pregate_inference", "scale_router_input", "share_expert_swiglu_limit_list",
    "up_proj_norm", "use_bias", "use_kda_lora", "use_mla_nope", "use_nGPT", "value_norm",
), (False, []))  # fmt: skip
_ON = dict.fromkeys(("moe_router_enable_expert_bias", "no_kda_lora"), (True,))


class ModelArgs(bailing_hybrid.ModelArgs):
    fixed = bailing_hybrid.ModelArgs.fixed | _OFF | _ON
    aliases = bailing_hybrid.ModelArgs.aliases | {"score_function": "scoring_func", "use_qkv_bias": "attention_bias"}
    gated_attention_proj_granularity_type: str | None = "head_wise"
    moe_shared_expert_intermediate_size: int | None = None
    use_qk_norm: bool = True  # of the delta layers, which have it always

    @classmethod
    def prepared(cls, flat: dict[str, Any]) -> dict[str, Any]:
        """The share that is rotated is of a head that these layers do not have."""
        return {k: v for k, v in flat.items() if k != "partial_rotary_factor"}

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = self.gated_attention_proj_granularity_type
        refuse(kind != "head_wise", f"gated_attention_proj_granularity_type={kind!r} is not supported")

    def attends(self, index: int) -> bool:
        size = self.layer_group_size
        return super().attends(index) or index >= self.num_hidden_layers // size * size


Model = bailing_hybrid.Model
