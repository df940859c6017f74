"""Granite 4: Mamba-2 layers, attention at some, experts beside a feed-forward, Granite's multipliers.

Source: https://huggingface.co/ibm-granite/granite-4.0-h-small.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..nn import DecoderLayer, GatedMLP, LayerNames, Mamba2, named
from . import granite, granitemoe
from .bamba import Mamba2Args
from .dense import LinearArgs
from .weights import Rename, Rule, Split


class ModelArgs(LinearArgs, Mamba2Args, granite.ModelArgs):
    fixed = {"position_embedding_type": ("nope", "rope")}
    aliases = {"layers_block_type": "layer_types"}
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    shared_intermediate_size: int = 1024
    position_embedding_type: str | None = None

    @classmethod
    def prepared(cls, flat: dict[str, Any]) -> dict[str, Any]:
        """Without experts none are chosen, which configs write as 0."""
        if not flat.get("num_local_experts", True):
            flat.pop("num_experts_per_tok", None)
        return flat

    def attends(self, index: int) -> bool:
        return False


SharedMLP = named(GatedMLP, fused_name="input_linear", down_name="output_linear")


class Layer(DecoderLayer):
    def add(self, args: Any, index: int) -> None:
        if args.num_local_experts:
            self.shared_mlp = SharedMLP(args.hidden_size, args.shared_intermediate_size, args.hidden_act, fused=True)

    def _feed(self, x: mx.array) -> mx.array:
        y = super()._feed(x)
        return y + self["shared_mlp"](x) if "shared_mlp" in self else y


class Model(granitemoe.Model):
    layer_type = Layer
    linear_type = Mamba2

    def weight_rules(self) -> tuple[Rule, ...]:
        if self.args.num_local_experts:
            return super().weight_rules()
        # Without experts the one feed-forward is kept as `mlp`.
        halves = (r"\1.mlp.gate_proj.\2", r"\1.mlp.up_proj.\2")
        split = Split(r"(.*\.layers\.\d+)\.shared_mlp\.input_linear\.(\w+)", halves)
        return (*super().weight_rules(), split, Rename(r"\.shared_mlp\.output_linear\.", ".mlp.down_proj."))

    def names_at(self, args: Any, index: int) -> LayerNames:
        mixer = "mamba" if args.is_linear(index) else "self_attn"
        return LayerNames(mixer, "block_sparse_moe" if args.num_local_experts else "mlp")

    def has_rope(self, args: Any, index: int) -> bool:
        return args.position_embedding_type == "rope"

    def feed_forward(self, args: Any, index: int) -> nn.Module | None:
        if args.num_local_experts:
            return super().feed_forward(args, index)
        return GatedMLP(args.hidden_size, args.shared_intermediate_size, args.hidden_act)
