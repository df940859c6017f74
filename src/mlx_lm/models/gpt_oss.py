"""gpt-oss: attention sinks, alternating windows, clamped experts with biases. https://arxiv.org/abs/2508.10925."""

from dataclasses import field
from functools import partial
from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import MoE, Routing, SwitchGLU, named
from .parts import DenseModel, Rename, SlidingArgs, Split, Transform


class ModelArgs(SlidingArgs):
    head_dim: int | None = 64
    rms_norm_eps: float = 1e-5
    attention_bias: bool = True
    sliding_window: int | None = 128
    sliding_window_pattern: int | None = 2
    max_position_embeddings: int = 131072
    rope_theta: float = 150000.0
    rope_scaling: dict[str, Any] = field()  # type: ignore[assignment]
    num_local_experts: int = 128
    num_experts_per_tok: int = 4
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0


def clamped_swiglu(gate: mx.array, up: mx.array, *, alpha: float, limit: float) -> mx.array:
    """(up + 1) * gate * sigmoid(alpha * gate), with `gate` at most `limit` and `up` within +-`limit`."""
    gate, up = mx.minimum(gate, limit), mx.clip(up, -limit, limit)
    return (up + 1) * (gate * mx.sigmoid(alpha * gate))


class Model(DenseModel):
    attention = {"sinks": True}
    rules = (
        # Published: MXFP4 blocks (E, out, in/32, 16) of two values a byte, which is MLX's packing byte for byte.
        Transform(r"\.experts\.\w+_proj_blocks$", lambda w: w.flatten(-2).view(mx.uint32)),
        Transform(r"\.experts\.\w+_proj$", lambda w: w.swapaxes(1, 2)),
        Rename(r"(\.experts\.\w+_proj)(_blocks)?$", r"\1.weight"),
        Rename(r"(\.experts\.\w+_proj)_(scales|bias)$", r"\1.\2"),
        Split(r"(.*\.experts)\.gate_up_proj\.(\w+)", (r"\1.gate_proj.\2", r"\1.up_proj.\2"), 1, interleaved=True),
    )

    def feed_forward(self, args: Any, index: int) -> nn.Module:
        act = partial(clamped_swiglu, alpha=args.swiglu_alpha, limit=args.swiglu_limit)
        experts = SwitchGLU(args.hidden_size, args.intermediate_size, args.num_local_experts, act=act, bias=True)
        top = Routing(args.num_experts_per_tok, "softmax_topk")
        kind = named(MoE, router_name="router", experts_name="experts")
        return kind(args.hidden_size, args.num_local_experts, top, experts, router_bias=True)
