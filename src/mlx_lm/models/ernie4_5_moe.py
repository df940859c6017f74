"""ERNIE 4.5 with experts: softmax routing with a selection bias, shared experts. Source as for `ernie4_5`."""

from . import ernie4_5
from .weights import Drop, Rename, Transform, expert_rules, no_correction


class ModelArgs(ernie4_5.ModelArgs):
    head_dim: int | None = None
    moe_num_experts: int = 64
    moe_k: int = 6
    moe_num_shared_experts: int = 2
    moe_intermediate_size: int = 1536
    moe_layer_start_index: int = 1
    moe_layer_end_index: int = -1
    moe_layer_interval: int = 1
    aliases = {"num_experts": "moe_num_experts", "num_experts_per_tok": "moe_k"}

    def has_experts(self, index: int) -> bool:
        last = self.num_hidden_layers - 1 if self.moe_layer_end_index == -1 else self.moe_layer_end_index
        return (index + 1) % self.moe_layer_interval == 0 and self.moe_layer_start_index <= index <= last


class Model(ernie4_5.Model):
    head_bias = "use_bias"
    moe_options = {"correction": True}
    rules = (
        Drop(r"^(model\.)?mtp_"),
        Rename(r"\.mlp\.(gate\.)?moe_statics\.", ".mlp.gate."),
        Transform(r"e_score_correction_bias$", lambda b: b.flatten()),
        *expert_rules(),
        no_correction,
    )
