"""Granite 3 with experts and a feed-forward that every token visits. Source: https://huggingface.co/ibm-granite."""

from typing import Any

import mlx.nn as nn

from ..nn import GatedMLP
from . import granitemoe
from .weights import Rename


class ModelArgs(granitemoe.ModelArgs):
    shared_intermediate_size: int = 0


class Model(granitemoe.Model):
    rules = (
        Rename(r"(layers\.\d+\.)shared_mlp\.input_linear\.", r"\1block_sparse_moe.shared_experts.gate_up_proj."),
        Rename(r"(layers\.\d+\.)shared_mlp\.output_linear\.", r"\1block_sparse_moe.shared_experts.down_proj."),
        *granitemoe.Model.rules,
    )

    def experts(self, args: Any) -> nn.Module:
        moe = super().experts(args)
        if args.shared_intermediate_size:
            moe.shared_experts = GatedMLP(args.hidden_size, args.shared_intermediate_size, args.hidden_act, fused=True)
        return moe
