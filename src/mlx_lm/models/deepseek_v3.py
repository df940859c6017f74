"""DeepSeek-V3: V2's attention, experts chosen by sigmoid scores with a correction. https://arxiv.org/abs/2412.19437."""

from dataclasses import dataclass

import mlx.core as mx

from . import deepseek_v2
from .build import infer_quantization
from .dense import DenseModel
from .weights import Rule, Weights


class ModelArgs(deepseek_v2.ModelArgs):
    fixed = {"topk_method": ("noaux_tc",), "scoring_func": ("sigmoid",)}
    max_position_embeddings: int = 4096
    n_routed_experts: int | None = 256
    n_shared_experts: int | None = 1
    num_experts_per_tok: int | None = 8
    moe_intermediate_size: int = 2048
    first_k_dense_replace: int = 3
    n_group: int | None = 8
    topk_group: int | None = 4
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 2.5
    mlp_layer_types: list[str] | None = None


@dataclass(frozen=True)
class SplitHeads:
    """`kv_b_proj` (H*(nope+value), R) -> `embed_q` (H, R, nope) and `unembed_out` (H, value, R).

    Packed values are cut without loss; packed keys become dense, because they are packed along what is now the other
    side.
    """

    num_heads: int
    nope_dim: int
    rank: int

    def __call__(self, weights: Weights) -> Weights:
        result = dict(weights)
        for name in [k for k in weights if k.endswith(".kv_b_proj.weight")]:
            base = name.removesuffix("kv_b_proj.weight")
            kinds = [k for k in ("weight", "scales", "biases") if f"{base}kv_b_proj.{k}" in weights]
            parts = {k: mx.unflatten(result.pop(f"{base}kv_b_proj.{k}"), 0, (self.num_heads, -1)) for k in kinds}
            result |= {f"{base}unembed_out.{k}": v[:, self.nope_dim :] for k, v in parts.items()}
            keys = self._dense({k: v[:, : self.nope_dim] for k, v in parts.items()})
            result[f"{base}embed_q.weight"] = mx.contiguous(keys.swapaxes(1, 2))
        return result

    def _dense(self, parts: dict[str, mx.array]) -> mx.array:
        if "scales" not in parts:
            return parts["weight"]
        packing = infer_quantization("kv_b_proj", self.rank, parts["weight"], parts["scales"])
        return mx.dequantize(parts["weight"], parts["scales"], parts.get("biases"), **packing)


class Model(deepseek_v2.Model):
    split_heads = next_token_layers = True
    moe_options = {"correction": True}
    routing = DenseModel.routing

    def weight_rules(self) -> tuple[Rule, ...]:
        args = self.args
        return (*super().weight_rules(), SplitHeads(args.num_attention_heads, args.qk_nope_head_dim, args.kv_lora_rank))
