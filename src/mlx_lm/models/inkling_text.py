"""Inkling: attention by learned distances, convolutions after every branch, shared experts that take part in routing.

Source: https://huggingface.co/thinkingmachines/Inkling.
"""

from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import DecoderLayer, GatedMLP, Linear, MoE, Routing, SwitchGLU, route
from ..nn.relative import RelativeAttention, RelativeOptions, ResidualConv
from ..state import LayerState, ListSpec, StateSpec, part
from .parts import DenseModel, NormedBackbone, SlidingArgs
from .weights import Drop, Rename, Rule, Transform, expert_rules, rename_parts, split_pair

_KINDS = {"hybrid": "full_attention", "hybrid_sliding": "sliding_attention"}


class ModelArgs(SlidingArgs):
    fixed = {"shared_expert_sink": (True,)}
    aliases = {
        "embedding_multiplier": "logits_mup_width_multiplier", "sliding_window_size": "sliding_window",
        "num_local_experts": "n_routed_experts", "sconv_kernel_size": "conv_kernel_size",
        "model_max_length": "max_position_embeddings", "dense_mlp_idx": "first_k_dense_replace",
    }  # fmt: skip
    positive = (
        "unpadded_vocab_size", "swa_num_attention_heads", "swa_head_dim", "d_rel", "rel_extent", "conv_kernel_size",
        "log_scaling_n_floor", "n_shared_experts", "logits_mup_width_multiplier",
    )  # fmt: skip
    multiples = {"swa_num_attention_heads": "swa_num_key_value_heads"}
    head_dim: int | None = 128
    intermediate_size: int = 24576
    dense_intermediate_size: int | None = None  # where a config has it, `intermediate_size` is the experts'
    max_position_embeddings: int = 131072
    unpadded_vocab_size: int | None = None
    swa_num_attention_heads: int = 64
    swa_num_key_value_heads: int = 16
    swa_head_dim: int = 128
    sliding_window: int | None = 512
    d_rel: int = 16
    rel_extent: int = 1024
    log_scaling_n_floor: int | None = None
    log_scaling_alpha: float = 0.1
    local_layer_ids: list[int] | None = None
    conv_kernel_size: int = 4
    first_k_dense_replace: int = 0
    mlp_layer_types: list[str] | None = None
    moe_intermediate_size: int = 3072
    n_routed_experts: int = 256
    num_experts_per_tok: int = 6
    n_shared_experts: int = 2
    route_scale: float = 8.0
    logits_mup_width_multiplier: float = 24.0

    def __post_init__(self) -> None:
        self.layer_types = [_KINDS.get(kind, kind) for kind in self.layer_types or ()] or None
        if self.dense_intermediate_size is not None:
            self.moe_intermediate_size, self.intermediate_size = self.intermediate_size, self.dense_intermediate_size
        super().__post_init__()
        self.tie_word_embeddings = False  # nothing in the family ties them, whatever a config says
        self.unpadded_vocab_size = min(self.unpadded_vocab_size or self.vocab_size, self.vocab_size)

    def slides(self, index: int) -> bool:
        return (index + 1) % 6 > 0 if self.local_layer_ids is None else index in self.local_layer_ids

    def layer_heads(self, index: int) -> tuple[int, int, int]:
        slides = self.window(index) is not None
        return (self.swa_num_attention_heads, self.swa_num_key_value_heads, self.swa_head_dim) if slides else self.heads

    def attention_scale(self, index: int) -> float:
        return 1 / self.layer_heads(index)[2]

    def relative(self, index: int) -> RelativeOptions:
        """The distances of layer `index`."""
        window = self.window(index)
        sizes = self.d_rel, window or self.rel_extent, self.conv_kernel_size
        return RelativeOptions(*sizes, None if window else self.log_scaling_n_floor, self.log_scaling_alpha)


class ScaledMLP(GatedMLP):
    """A feed-forward with one factor on all that it gives."""

    def __init__(self, *sizes: Any, **options: Any):
        super().__init__(*sizes, **options)
        self.global_scale = mx.ones((1,))

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x) * self.global_scale


class Experts(MoE):
    """Weights of the chosen and of all shared experts together sum to a learned scale."""

    def __init__(self, args: ModelArgs):
        width, size, act = args.hidden_size, args.moe_intermediate_size, args.hidden_act
        routing = Routing(args.num_experts_per_tok, "sigmoid", normalize=False)
        routed, shared = args.n_routed_experts, args.n_shared_experts
        experts, always = (SwitchGLU(width, size, count, act=act) for count in (routed, shared))
        super().__init__(width, routed + shared, routing, experts, shared=always)
        self._routed, self._scale = routed, args.route_scale
        self.gate.e_score_correction_bias, self.gate.global_scale = mx.zeros((routed,)), mx.ones((1,))

    def __call__(self, x: mx.array) -> mx.array:
        flat, top_k = x.reshape(-1, x.shape[-1]), self.routing.top_k
        routed, shared = mx.split(self.gate(flat), [self._routed], axis=-1)
        indices, weights = route(routed, self.routing, self.gate.e_score_correction_bias)
        weights = mx.concatenate([weights, mx.sigmoid(shared.astype(mx.float32))], axis=-1)
        weights = weights / weights.sum(axis=-1, keepdims=True) * (self._scale * self.gate.global_scale)
        every = mx.broadcast_to(mx.arange(shared.shape[-1], dtype=mx.uint32), shared.shape)
        always = self.shared_experts(flat, every) * weights[:, top_k:, None].astype(x.dtype)
        return (self._visit(flat, indices, weights[:, :top_k]) + always.sum(axis=-2)).reshape(x.shape)


class ConvolvedLayer(DecoderLayer):
    """Both branches end with a short convolution."""

    def add(self, args: Any, index: int) -> None:
        for name in ("attn_sconv", "mlp_sconv"):
            self[name] = ResidualConv(args.hidden_size, args.conv_kernel_size)

    def state_spec(self) -> StateSpec:
        return ListSpec(tuple(self[name].state_spec() for name in ("self_attn", "attn_sconv", "mlp_sconv")))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        h = self["self_attn"](self["input_layernorm"](x), part(state, 0))
        x = x + self["attn_sconv"](h, part(state, 1))
        return x + self["mlp_sconv"](self["mlp"](self["post_attention_layernorm"](x)), part(state, 2))


class Model(DenseModel):
    backbone_type = NormedBackbone
    layer_type = ConvolvedLayer
    feed_forward_type = ScaledMLP
    attention = {"rope": None}
    qk_norm = True
    rules = (
        Drop(r"(^|\.)mtp\."),
        Rename(r"^model\.llm\.unembed\.", "lm_head."),
        Rename(r"^model\.llm\.embed\.", "model.embed_tokens."),
        Rename(r"^model\.llm\.", "model."),
        Rename(r"\.embed_tokens\.embed_norm\.", ".embed_norm."),
        *rename_parts({"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}),
        Rename(r"\.attn\.w([qkvor])_(?:du|dv|ud)\.", r".self_attn.\1_proj."),
        Rename(r"\.attn\.", ".self_attn."),
        Rename(r"sconv\.weight$", "sconv.conv1d.weight"),
        Rename(r"\.mlp\.gate\.bias$", ".mlp.gate.e_score_correction_bias"),
        split_pair(r"(.*\.mlp)\.experts\.w13_weight", r"\1.switch_mlp", 1, interleaved=True),
        split_pair(r"(.*\.mlp\.shared_experts)\.shared_w13_weight", r"\1", 1, interleaved=True),
        split_pair(r"(.*\.mlp)\.w13_dn\.weight", r"\1", interleaved=True),
        Rename(r"\.experts\.w2_weight$", ".switch_mlp.down_proj.weight"),
        Rename(r"\.(shared_w2_weight|w2_md\.weight)$", ".down_proj.weight"),
        Rename(r"(\.shared_experts\.(?:gate|up|down)_proj)$", r"\1.weight"),
        *expert_rules(),
    )

    def __init__(self, args: Any):
        super().__init__(args)
        self.lm_head = Linear(args.hidden_size, args.unpadded_vocab_size, bias=False)

    def weight_rules(self) -> tuple[Rule, ...]:
        rows = self.args.unpadded_vocab_size  # tokens after them only fill up the tables
        return (*super().weight_rules(), Transform(r"^lm_head\.", lambda w: w[:rows]))

    def mixer(self, args: Any, index: int) -> nn.Module:
        return RelativeAttention(self.attention_options(args, index), args.relative(index))

    def experts(self, args: Any) -> nn.Module:
        return Experts(args)

    def logit_scale(self, args: Any) -> float:
        return 1 / args.logits_mup_width_multiplier
