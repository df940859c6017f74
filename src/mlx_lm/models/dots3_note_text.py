"""dots3.note, the text model: latent attention with an indexer or a window, gated heads, DeepSeek-V3's experts.

Source: https://huggingface.co/dots-studio/dots3-note-prev.
"""

from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import LatentOptions, RMSNorm, Rope, make_rope
from ..nn.indexed import IndexedLatentAttention, IndexOptions
from . import deepseek_v2, deepseek_v3, deepseek_v32
from .config import refuse
from .weights import Drop

_INDEXED, _FULL, _SLIDING = "indexed_attention", "full_attention", "sliding_attention"
_OWN = ("num_attention_heads", "num_key_value_heads", "q_lora_rank", "kv_lora_rank", "head_dim", "qk_nope_head_dim",
        "qk_rope_head_dim", "v_head_dim")  # fmt: skip


class ModelArgs(deepseek_v32.ModelArgs):
    layer_sizes = _OWN
    per_layer = {"layer_types": (_INDEXED, _FULL, _SLIDING)}
    positive = ("sliding_window", "n_shared_experts", "shared_experts_intermediate_size")
    aliases = {
        "num_local_experts": "n_routed_experts",
        "moe_shared_expert_intermediate_size": "shared_experts_intermediate_size",
        "sliding_window_size": "sliding_window",
    }
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 524288
    rope_theta: float = 80_000_000.0
    q_lora_rank: int | None = 1024
    moe_intermediate_size: int = 1536
    first_k_dense_replace: int = 1
    n_group: int | None = 1
    topk_group: int | None = 1
    moe_layer_freq: int | list[int] = 1  # type: ignore[assignment]
    shared_experts_intermediate_size: int = 1536
    routed_scaling_factor: float = 1.0
    use_dsa: bool | None = None
    use_sliding_window: bool = True
    sliding_window: int = 512
    swa_rope_theta: float = 50_000.0
    swa_num_attention_heads: int = 64
    swa_num_key_value_heads: int = 64
    swa_q_lora_rank: int = 1024
    swa_kv_lora_rank: int = 1024
    swa_head_dim: int = 256
    swa_qk_nope_head_dim: int = 192
    swa_qk_rope_head_dim: int | None = None
    swa_v_head_dim: int = 128
    per_layer_config: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        count, slides = self.num_hidden_layers, self.use_sliding_window
        kinds = self.layer_types or [_FULL if not slides or i < 2 or i % 4 == 1 else _SLIDING for i in range(count)]
        # Published configs call layers with an indexer full; those that list each layer's sizes say what they mean.
        if self.use_dsa is not None or self.per_layer_config is None or self.layer_types is None:
            old, new = (_INDEXED, _FULL) if self.use_dsa is False else (_FULL, _INDEXED)
            kinds = [new if kind == old else kind for kind in kinds]
        self.layer_types = kinds
        if self.per_layer_config is None:
            own = {name: getattr(self, f"swa_{name}") for name in _OWN}
            own["qk_rope_head_dim"] = own["qk_rope_head_dim"] or self.swa_head_dim - self.swa_qk_nope_head_dim
            self.per_layer_config = {str(i): own for i, kind in enumerate(kinds) if kind == _SLIDING}
        if self.rope_by_layer_type is None:
            thetas = {_SLIDING: self.rope_theta if self.rope_scaling else self.swa_rope_theta}
            scaling = self.rope_scaling or {}
            self.rope_by_layer_type = {k: {"rope_theta": thetas.get(k, self.rope_theta), **scaling} for k in set(kinds)}


class NoteAttention(IndexedLatentAttention):
    """Rotary keys are normalized; each head's output has a gate."""

    gate_name, per_head = "g_proj", True

    def __init__(self, options: LatentOptions, index: IndexOptions | None):
        super().__init__(options, index)
        self.k_rope_only_layernorm = RMSNorm(options.rope_dim, options.norm_eps)

    def _latents(self, x: mx.array) -> tuple[mx.array, mx.array]:
        latents, keys = super()._latents(x)
        return latents, self.k_rope_only_layernorm(keys)


class Model(deepseek_v2.Model):
    next_token_layers = True
    moe_options, routing = deepseek_v3.Model.moe_options, deepseek_v3.Model.routing
    rules = (Drop(r"^model\.mtp\."), *deepseek_v2.Model.rules)

    def mixer(self, args: Any, index: int) -> nn.Module:
        rope = self.rope(args, index)
        indexed = IndexOptions(args.index_n_heads, args.index_head_dim, args.index_topk, rope)
        return NoteAttention(self.latent_options(args, index), indexed if args.layer_types[index] == _INDEXED else None)

    def latent_options(self, args: Any, index: int) -> LatentOptions:
        own = args.at(index)
        same = own.num_attention_heads == own.num_key_value_heads
        refuse(not same, "num_key_value_heads must equal num_attention_heads in every layer")
        options = super().latent_options(own, index)
        return replace(
            options,
            scale=(options.nope_dim + options.rope_dim) ** -0.5,
            norm_eps=args.rms_norm_eps,
            window=args.sliding_window if args.layer_types[index] == _SLIDING else None,
            grow_queries=True,
            grow_latents=True,
        )

    def rope(self, args: Any, index: int) -> Rope | None:
        params = replace(args.rope_parameters(args.layer_types[index]), partial=1.0)
        return make_rope(args.at(index).qk_rope_head_dim, params, traditional=True)
