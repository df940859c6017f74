"""Kolibri 1: norms around both branches, full layers without rope, experts chosen by corrected logits.

Source: https://huggingface.co/docs/transformers/model_doc/kolibri1.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import mlx.core as mx
from mlx import nn

from ..nn import AttentionOptions, GatedMLP, LayerNames, MoE, RMSNorm, Rope, Routing, SwitchGLU
from .dense import DenseModel, SlidingArgs
from .weights import Rename, expert_rules


@dataclass
class ModelArgs(SlidingArgs):
    aliases: ClassVar = {"num_local_experts": "num_experts"}
    head_dim: int | None = 128
    max_position_embeddings: int = 262144
    sliding_window: int | None = 513
    sliding_window_pattern: int | None = 5
    rms_norm_eps: float = field(default=1e-6, kw_only=True)
    moe_intermediate_size: int = 512
    shared_expert_intermediate_size: int = 512
    num_experts: int = 384
    num_experts_per_tok: int = 6
    norm_topk_prob: bool = False


class LogitChoice(MoE):
    """The correction is added to the logits; weights are the sigmoids of the plain ones."""

    def choose(self, logits: mx.array) -> tuple[mx.array, mx.array]:
        logits, k = logits.astype(mx.float32), self.routing.top_k
        choice = logits + self.gate.e_score_correction_bias
        indices = mx.stop_gradient(mx.argsort(-choice, axis=-1)[..., :k])
        weights = mx.sigmoid(mx.take_along_axis(logits, indices, axis=-1))
        return indices, weights / weights.sum(axis=-1, keepdims=True) if self.routing.normalize else weights


class Model(DenseModel):
    layer_names = LayerNames(post_mixer="post_attn_norm", post_feed_forward="post_ffn_norm")
    rules = (
        Rename(r"\.moe\.router\.expert_bias$", ".mlp.gate.e_score_correction_bias"),
        Rename(r"\.post_self_attn_layernorm\.", ".post_attn_norm."),
        Rename(r"\.post_mlp_layernorm\.", ".post_ffn_norm."),
        *expert_rules(),
    )

    @classmethod
    def attention_options(cls, args: Any, index: int, **changes: Any) -> AttentionOptions:
        return super().attention_options(args, index, qk_norm=partial(RMSNorm, eps=args.rms_norm_eps), **changes)

    @classmethod
    def rope(cls, args: Any, index: int) -> Rope | None:
        slides = args.sliding_window is None or args.layer_type(index) == "sliding_attention"
        return super().rope(args, index) if slides else None

    @classmethod
    def feed_forward(cls, args: Any, index: int) -> nn.Module:
        width, count, act = args.hidden_size, args.num_experts, args.hidden_act
        routing = Routing(args.num_experts_per_tok, "sigmoid", normalize=args.norm_topk_prob)
        experts = SwitchGLU(width, args.moe_intermediate_size, count, act=act)
        shared = GatedMLP(width, args.shared_expert_intermediate_size, act)
        return LogitChoice(width, count, routing, experts, correction=True, shared=shared)
