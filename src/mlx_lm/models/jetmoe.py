"""JetMoE: experts for queries and outputs of attention too, all over one set of keys. https://arxiv.org/abs/2404.07413."""

from typing import Any

import mlx.core as mx
from mlx import nn

from .. import kernels
from ..nn import LayerNames, Linear, MoE, NestedRouter, RMSNorm, Rope, Routing, SwitchLinear, in_expert_order, route
from ..state import KVSpec, LayerState, StateSpec, attend_states, offsets
from .config import DecoderArgs, refuse
from .dense import DenseModel
from .weights import Rename, Split


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


class HeadExperts(nn.Module):
    """Experts that make queries from the input, and outputs from attention's results."""

    def __init__(self, args: Any):
        super().__init__()
        width, count = args.hidden_size, args.num_local_experts
        size = args.heads[1] * args.heads[2]
        self.router = NestedRouter(width, count, "layer")
        self.input_linear = SwitchLinear(width, size, count, bias=False)
        self.output_linear = SwitchLinear(size, width, count, bias=False)
        self.bias = mx.zeros((width,))


class ExpertAttention(nn.Module):
    """Every chosen expert's queries attend to the same keys and values."""

    def __init__(self, args: Any, rope: Rope | None):
        super().__init__()
        _, self._kv_heads, self._head_dim = args.heads
        self._rope, self._routing = rope, Routing(args.num_experts_per_tok, "softmax_topk")
        self.experts = HeadExperts(args)
        self.kv_proj = Linear(args.hidden_size, 2 * self._kv_heads * self._head_dim, bias=False)

    def state_spec(self) -> StateSpec:
        return KVSpec(self._kv_heads, self._head_dim, self._head_dim)

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        experts, k = self.experts, self._routing.top_k
        flat = x.reshape(-1, x.shape[-1])
        indices, weights = route(experts.router(flat), self._routing)
        queries = in_expert_order(experts.input_linear, flat, indices)  # (N, k, Hkv*D)
        # Heads that share a key stand together: (B, L, k, Hkv, D) -> (B, Hkv*k, L, D).
        queries = queries.reshape(*x.shape[:2], k, self._kv_heads, -1).transpose(0, 3, 2, 1, 4).flatten(1, 2)
        keys, values = (
            mx.unflatten(a, -1, (self._kv_heads, -1)).transpose(0, 2, 1, 3) for a in mx.split(self.kv_proj(x), 2, -1)
        )
        if self._rope is not None:
            position = offsets(state)
            queries, keys = self._rope(queries, position), self._rope(keys, position)
        views = attend_states(state, keys, values)
        out = kernels.attention(queries, views, scale=self._head_dim**-0.5)
        out = mx.unflatten(out, 1, (self._kv_heads, k)).transpose(0, 3, 2, 1, 4)  # (B, L, k, Hkv, D)
        out = out.reshape(flat.shape[0] * k, -1)
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
    moe_type = BiasedExperts
    routing_options = {"score": "softmax_topk"}
    rules = (
        Split(r"(.*\.mlp)\.input_linear\.weight", tuple(rf"\1.switch_mlp.{n}_proj.weight" for n in ("gate", "up")), 1),
        Rename(r"\.mlp\.output_linear\.", ".mlp.switch_mlp.down_proj."),
    )

    def mixer(self, args: Any, index: int) -> nn.Module:
        return ExpertAttention(args, self.rope(args, index))

    def norm(self, args: Any) -> nn.Module:
        return RMSNorm(args.hidden_size, 1e-6)  # whatever the config says, unlike the final norm

    def final_norm(self, args: Any) -> nn.Module:
        return RMSNorm(args.hidden_size, args.rms_norm_eps)
