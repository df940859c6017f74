"""DBRX: limited queries, keys and values; 16 experts of which 4 are visited. https://www.databricks.com/blog/dbrx."""

from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import DecoderLayer, LayerNames, LayerNorm, Routing
from ..state import LayerState, StateSpec
from .base import DecoderArgs, ModelNames
from .config import refuse
from .dense import DenseModel
from .experts import usual_routing
from .granitemoe import Experts
from .phixtral import FusedAttention
from .weights import Rename, Rule, Transform, expert_rules


class ModelArgs(DecoderArgs):
    aliases = {
        "kv_n_heads": "num_key_value_heads", "moe_top_k": "num_experts_per_tok", "ffn_hidden_size": "intermediate_size",
    }  # fmt: skip
    fixed = {"moe_normalize_expert_weights": (1,)}
    positive = ("clip_qkv",)
    layer_norm_eps: float = 1e-5
    clip_qkv: float | None = None
    intermediate_size: int = 3584
    moe_num_experts: int = 4
    num_experts_per_tok: int = 1
    moe_normalize_expert_weights: float | None = 1.0

    @classmethod
    def prepared(cls, flat: dict[str, Any]) -> dict[str, Any]:
        """Lifts what stands in `attn_config` and `ffn_config`."""
        attention, experts = (flat.get(name) or {} for name in ("attn_config", "ffn_config"))
        refuse(not isinstance(attention, dict) or not isinstance(experts, dict), "attn_config or ffn_config is wrong")
        act = experts.get("ffn_act_fn")
        return {**attention, **experts, **flat, "hidden_act": act.get("name") if isinstance(act, dict) else None}


class NormAttnNorm(nn.Module):
    """Where checkpoints have attention with both norms of the layer."""

    def __init__(self, attn: nn.Module | None, args: Any):
        super().__init__()
        self.attn = attn
        self.norm_1, self.norm_2 = (LayerNorm(args.hidden_size, args.layer_norm_eps, bias=False) for _ in range(2))


class Layer(DecoderLayer):
    def state_spec(self) -> StateSpec:
        return self.norm_attn_norm.attn.state_spec()

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        part = self.norm_attn_norm
        x = x + part.attn(part.norm_1(x), state)
        return x + self.ffn(part.norm_2(x))


class Model(DenseModel):
    names = ModelNames(backbone="transformer", embed="wte", layers="blocks", norm="norm_f")
    layer_names = LayerNames("norm_attn_norm", "ffn", None, None, None)
    layer_type = Layer
    norm_options = {"bias": False}
    attention_type = FusedAttention
    attention = {"fused": True}
    moe_type = Experts

    def mixer(self, args: Any, index: int) -> nn.Module:
        return NormAttnNorm(super().mixer(args, index), args)

    def routing(self, args: Any) -> Routing:
        return usual_routing(args, normalize=args.moe_normalize_expert_weights is not None)

    def weight_rules(self) -> tuple[Rule, ...]:
        shape = (self.args.moe_num_experts, self.args.intermediate_size, self.args.hidden_size)
        whole = r"\.ffn\.experts\.mlp\."
        return (
            *super().weight_rules(),
            Transform(whole + "(w1|v1)$", lambda w: w.reshape(shape)),
            Transform(whole + "w2$", lambda w: w.reshape(shape).swapaxes(1, 2)),
            Rename(whole + "w1$", ".ffn.switch_mlp.gate_proj.weight"),
            Rename(whole + "v1$", ".ffn.switch_mlp.up_proj.weight"),
            Rename(whole + "w2$", ".ffn.switch_mlp.down_proj.weight"),
            *expert_rules("ffn", ("w1", "v1", "w2")),
        )
