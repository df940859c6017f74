"""JetMoE: experts for queries and outputs of attention too, all over one set of keys. https://arxiv.org/abs/2404.07413."""

from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import (
    Attention,
    LayerNames,
    Linear,
    MoE,
    NestedRouter,
    RMSNorm,
    Routing,
    SwitchLinear,
    in_expert_order,
    route,
)
from ..state import LayerState, attend_states, offsets
from .parts import CausalLM, DecoderArgs, DenseModel, Rename, refuse, split_pair


class ModelArgs(DecoderArgs):
    aliases = {"kv_channels": "head_dim"}
    head_dim: int | None = 128
    max_position_embeddings: int = 4096
    tie_word_embeddings: bool = True
    num_local_experts: int = 8
    num_experts_per_tok: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        heads, kv_heads, _ = self.heads
        wrong = heads != kv_heads * self.num_experts_per_tok
        refuse(wrong, "num_attention_heads must be num_key_value_heads * num_experts_per_tok")


class ExpertAttention(Attention):
    """Experts make queries from the input, all for the same keys and values, and outputs from the results."""

    def add(self, args: Any, index: int) -> None:
        width, size, count = args.hidden_size, args.heads[1] * args.heads[2], args.num_local_experts
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            del self[name]
        self.experts: Any = nn.Module()
        self.experts.router = NestedRouter(width, count, "layer")
        self.experts.input_linear = SwitchLinear(width, size, count, bias=False)
        self.experts.output_linear = SwitchLinear(size, width, count, bias=False)
        self.experts.bias = mx.zeros((width,))
        self.kv_proj = Linear(width, 2 * size, bias=False)
        self._routing = Routing(args.num_experts_per_tok, "softmax_topk")

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        experts, shape, position = self.experts, (self._options.num_kv_heads, self._routing.top_k), offsets(state)
        flat = x.reshape(-1, x.shape[-1])
        indices, weights = route(experts.router(flat), self._routing)
        queries = in_expert_order(experts.input_linear, flat, indices)  # (N, k, Hkv*D)
        # Heads that share a key stand together: (B, L, k, Hkv, D) -> (B, Hkv*k, L, D).
        queries = queries.reshape(*x.shape[:2], *shape[::-1], -1).transpose(0, 3, 2, 1, 4).flatten(1, 2)
        keys, values = (
            mx.unflatten(a, -1, (shape[0], -1)).transpose(0, 2, 1, 3) for a in mx.split(self.kv_proj(x), 2, -1)
        )
        queries, keys = self._place(queries, keys, position)
        out = self._attend(queries, attend_states(state, keys, values), position)
        out = mx.unflatten(out, 1, shape).transpose(0, 3, 2, 1, 4).flatten(0, 2).flatten(1)  # (B*L*k, Hkv*D)
        out = in_expert_order(experts.output_linear, out, indices.reshape(-1, 1)).reshape(*indices.shape, -1)
        out = (out * weights[..., None].astype(out.dtype)).sum(axis=1) + experts.bias
        return out.reshape(x.shape)


class BiasedExperts(MoE):
    router_name, router_layer = "router", "layer"

    def __init__(self, width: int, *parts: Any, **options: Any):
        super().__init__(width, *parts, **options)
        self.bias = mx.zeros((width,))

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x) + self.bias


class Model(DenseModel):
    layer_names = LayerNames("self_attention")
    attention_type = ExpertAttention
    final_norm = CausalLM.final_norm
    moe_type = BiasedExperts
    routing_options = {"score": "softmax_topk"}
    rules = (
        split_pair(r"(.*\.mlp)\.input_linear\.weight", r"\1.switch_mlp", 1),
        Rename(r"\.mlp\.output_linear\.", ".mlp.switch_mlp.down_proj."),
    )

    def norm(self, args: Any) -> nn.Module:
        return RMSNorm(args.hidden_size, 1e-6)  # whatever the config says, unlike the final norm
