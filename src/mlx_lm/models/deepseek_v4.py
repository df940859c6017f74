"""DeepSeek-V4: a window and compressed entries for attention, hyper-connections, experts chosen by token id at first.

Source: https://huggingface.co/deepseek-ai/DeepSeek-V4-Pro.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import DecoderLayer, Rope, Routing, make_rope
from ..nn.compressed import CompressedAttention, CompressedOptions
from ..nn.hashed import HashedMoE
from ..nn.hyper import HyperConnection, HyperHead
from ..state import LayerState
from .base import CausalLM, PassingBackbone
from .config import DecoderArgs, block_options, refuse
from .dense import DenseModel
from .experts import usual_routing
from .weights import Drop, Rename, Rule, Transform, expert_rules, rename_parts

_SLIDING, _SPARSE, _HEAVY = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"


class ModelArgs(DecoderArgs):
    feed_forward_kinds = ("moe", "hash_moe")
    fixed = {
        "norm_topk_prob": (True,), "scoring_func": ("sqrtsoftplus", "sigmoid", "softmax"),
        "num_key_value_heads": (1,), "n_shared_experts": (1,),
    }  # fmt: skip
    positive = ("n_routed_experts", "sliding_window")
    multiples = {"num_attention_heads": "o_groups"}
    per_layer = {"layer_types": (_SLIDING, _SPARSE, _HEAVY)}
    aliases = {"num_local_experts": "n_routed_experts"}
    head_dim: int | None = 512
    num_key_value_heads: int | None = 1
    max_position_embeddings: int = 1048576
    q_lora_rank: int = 1024
    qk_rope_head_dim: int | None = None
    partial_rotary_factor: float | None = None
    moe_intermediate_size: int = 2048
    n_routed_experts: int = 256
    n_shared_experts: int = 1
    num_experts_per_tok: int = 6
    scoring_func: str = "sqrtsoftplus"
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.5
    layer_types: list[str] | None = None
    mlp_layer_types: list[str] | None = None
    num_hash_layers: int = 3
    compress_rates: dict[str, Any] | None = None
    compress_rope_theta: float = 160000.0
    hc_mult: int = 4
    hc_sinkhorn_iters: int = 20
    hc_eps: float = 1e-6
    swiglu_limit: float = 10.0
    sliding_window: int = 128
    o_groups: int = 8
    o_lora_rank: int = 1024
    index_n_heads: int = 64
    index_head_dim: int = 128
    index_topk: int = 512

    @classmethod
    def prepared(cls, flat: dict[str, Any]) -> dict[str, Any]:
        """Published configs give each layer's rate instead of its kind."""
        ratios = flat.pop("compress_ratios", None)
        if isinstance(ratios, list) and flat.get("layer_types") is None:
            known = {0: _SLIDING, 4: _SPARSE, 128: _HEAVY}
            refuse(not set(ratios) <= set(known), f"compress_ratios {ratios!r} are not all of {sorted(known)}")
            flat["layer_types"] = [known[ratio] for ratio in ratios][: int(flat.get("num_hidden_layers") or 0)]
        rates = {_SPARSE: flat.pop("compress_rate_csa", None), _HEAVY: flat.pop("compress_rate_hca", None)}
        given = {k: v for k, v in rates.items() if v is not None}
        if isinstance(flat.get("compress_rates") or {}, Mapping):
            flat["compress_rates"] = {_SPARSE: 4, _HEAVY: 128, **(flat.get("compress_rates") or {}), **given}
        return flat

    def __post_init__(self) -> None:
        super().__post_init__()
        count, size = self.num_hidden_layers, self.head_dim or 0
        if self.layer_types is None:
            self.layer_types = [_SPARSE if i % 2 and i >= 2 else _HEAVY for i in range(count)]
        if self.mlp_layer_types is None:
            self.mlp_layer_types = ["hash_moe" if i < self.num_hash_layers else "moe" for i in range(count)]
        self.partial_rotary_factor = self.partial_rotary_factor or 0.125
        turned = self.qk_rope_head_dim = self.qk_rope_head_dim or int(size * self.partial_rotary_factor)
        rates = (self.compress_rates or {}).values()
        whole = all(isinstance(rate, int) and rate > 0 for rate in rates)
        refuse(not whole, f"compress_rates must be whole numbers, not {self.compress_rates!r}")
        fits = 2 <= turned <= min(size, self.index_head_dim) and turned % 2 == 0
        refuse(not fits, f"qk_rope_head_dim={turned} does not fit the heads")
        self.rope_by_layer_type = self._ropes()

    def _ropes(self) -> dict[str, Any]:
        """Only layers with entries have a scaled rope, which does not grow the rotated features."""
        nested, scaling = self.rope_by_layer_type or {}, dict(self.rope_scaling or {})
        scaling = {"rope_type": scaling.pop("type", "default"), **scaling}
        if scaling["rope_type"] == "yarn":
            scaling.setdefault("attention_factor", 1.0)
        return {
            "main": nested.get("main") or {"rope_theta": self.rope_theta},
            "compress": nested.get("compress") or {"rope_theta": self.compress_rope_theta, **scaling},
        }

    def turns(self, index: int) -> tuple[Rope, Rope]:
        """The rope of layer `index`, and the one that undoes it."""
        slides = self.layer_types and self.layer_types[index] == _SLIDING
        params = self.rope_parameters("main" if slides else "compress")
        rope = make_rope(self.qk_rope_head_dim or 0, replace(params, partial=1.0), traditional=True)
        freqs = rope.freqs
        if freqs is None:
            freqs = mx.array([params.theta ** (2 * i / rope.dims) for i in range(rope.dims // 2)], mx.float32)
        return rope, Rope(rope.dims, freqs=-freqs, base=None, scale=rope.scale, traditional=True)


class Layer(DecoderLayer):
    """Streams (B, L, N, D) through attention and experts."""

    def add(self, args: Any, index: int) -> None:
        options = {"steps": args.hc_sinkhorn_iters, "eps": args.hc_eps, "norm_eps": args.rms_norm_eps}
        self.attn_hc, self.ffn_hc = (HyperConnection(args.hc_mult, args.hidden_size, **options) for _ in range(2))

    def pass_on(self, x: mx.array, state: LayerState, ids: mx.array) -> tuple[mx.array, mx.array]:
        """The streams after the layer; `ids` (B, L) are the tokens'."""
        h, post, mix = self.attn_hc.collapse(x)
        x = self.attn_hc.spread(self.self_attn(self.input_layernorm(h), state), x, post, mix)
        h, post, mix = self.ffn_hc.collapse(x)
        y = self.mlp.at(self.post_attention_layernorm(h), ids)
        return self.ffn_hc.spread(y, x, post, mix), ids


class StreamBackbone(PassingBackbone):
    """Spreads the embeddings over the streams; layers also get the token ids."""

    def __init__(self, model: CausalLM, args: Any):
        super().__init__(model, args)
        self._streams = args.hc_mult
        self.hc_head = HyperHead(args.hc_mult, args.hidden_size, eps=args.hc_eps, norm_eps=args.rms_norm_eps)

    def begin(self, h: mx.array, inputs: mx.array) -> tuple[mx.array, Any]:
        return mx.repeat(h[:, :, None], self._streams, axis=2), inputs

    def end(self, h: mx.array, passed: Any) -> mx.array:
        return super().end(self.hc_head(h), passed)


class Model(DenseModel):
    backbone_type = StreamBackbone
    layer_type = Layer
    next_token_layers = True
    rules = (
        Drop(r"(^|\.)mtp\."),
        Rename(r"^(layers\.|norm\.)", r"model.\1"),
        Rename(r"^embed\.", "model.embed_tokens."),
        Rename(r"^head\.", "lm_head."),
        Rename(r"^(?:model\.)?hc_head_(fn|base|scale)$", r"model.hc_head.hc_\1"),
        Rename(r"\.hc_(attn|ffn)_(fn|base|scale)$", r".\1_hc.\2"),
        *rename_parts({"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}),
        *rename_parts({"ffn": "mlp", "attn": "self_attn"}),
        Rename(r"\.mlp\.gate\.bias$", ".mlp.gate.e_score_correction_bias"),
        *expert_rules("mlp", ("w1", "w3", "w2")),
        *rename_parts({"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}),
        *expert_rules(),
        # transformers keeps the indexer in the compressor, and its compressor's parts in the indexer itself.
        Rename(r"\.self_attn\.compressor\.indexer\.", ".self_attn.indexer."),
        Rename(r"\.indexer\.scorer\.", ".indexer."),
        Rename(r"\.indexer\.(kv_proj|gate_proj|kv_norm|position_bias)", r".indexer.compressor.\1"),
        Rename(r"\.compressor\.w(kv|gate)\.", r".compressor.\1_proj."),
        Rename(r"\.compressor\.norm\.", ".compressor.kv_norm."),
        Rename(r"\.compressor\.ape$", ".compressor.position_bias"),
        *rename_parts({"wq_b": "q_b_proj", "wq_a": "q_a_proj", "self_attn.wkv": "self_attn.kv_proj"}),
        *rename_parts({"self_attn.q_norm": "self_attn.q_a_norm", "self_attn.norm": "self_attn.kv_norm"}),
        Rename(r"\.self_attn\.wo_(a|b)\.", r".self_attn.o_\1_proj."),
        Rename(r"\.self_attn\.attn_sink$", ".self_attn.sinks"),
    )

    def weight_rules(self) -> tuple[Rule, ...]:
        groups, pattern = self.args.o_groups, r"\.o_a_proj\.(weight|scales|biases)$"
        by_group = Transform(pattern, lambda w: mx.unflatten(w, 0, (groups, -1)) if w.ndim == 2 else w)
        return (*super().weight_rules(), by_group)

    def mixer(self, args: Any, index: int) -> nn.Module:
        rope, back = args.turns(index)
        return CompressedAttention(self.compressed_options(args, index, rope), back)

    def compressed_options(self, args: Any, index: int, rope: Rope) -> CompressedOptions:
        """The attention of layer `index`."""
        kind = args.layer_types[index]
        own = {"rate": (args.compress_rates or {}).get(kind, 0), "overlap": kind == _SPARSE}
        return block_options(CompressedOptions, args, window=args.sliding_window, rope=rope, **own)

    def routing(self, args: Any) -> Routing:
        return usual_routing(args, score=args.scoring_func, epsilon=1e-20)

    def feed_forward(self, args: Any, index: int) -> HashedMoE:
        sizes = args.hidden_size, args.moe_intermediate_size, args.n_routed_experts
        limit = args.swiglu_limit if args.swiglu_limit > 0 else math.inf
        ids = args.vocab_size if args.mlp_layer_types[index] == "hash_moe" else 0
        return HashedMoE(*sizes, self.routing(args), act=args.hidden_act, limit=limit, ids=ids)
