"""K-EXAONE: norms before the branches, full layers without rope, sigmoid routing in groups.

Source: https://arxiv.org/abs/2601.01739.
"""

from ..nn import PRE_NORM
from . import exaone4
from .config import GroupedArgs
from .weights import Drop, Rename, expert_rules


class ModelArgs(GroupedArgs, exaone4.ModelArgs):
    fixed = {"scoring_func": ("sigmoid",)}
    per_layer = {"is_moe_layer": ()}
    multiples = {"num_experts": "n_group"}
    mlp_layer_types: list[str] | None = None
    is_moe_layer: list[bool] | None = None
    first_k_dense_replace: int = 1
    moe_intermediate_size: int = 1024
    num_experts: int = 64
    num_experts_per_tok: int = 8
    num_shared_experts: int = 1
    routed_scaling_factor: float = 2.5

    def has_experts(self, index: int) -> bool:
        listed = self.is_moe_layer if self.mlp_layer_types is None else None
        return listed[index] if listed else super().has_experts(index)


class Model(exaone4.Model):
    layer_names = PRE_NORM
    moe_options = {"correction": True}
    rules = (
        Drop(r"^mtp\."),
        Rename(r"\.mlp\.e_score_correction_bias$", ".mlp.gate.e_score_correction_bias"),
        *expert_rules(),
    )
