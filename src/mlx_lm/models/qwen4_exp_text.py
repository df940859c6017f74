"""Qwen4-Exp, the text model: gated residual streams, gated delta and block-sparse attention, n-gram memories.

Source: https://huggingface.co/Qwen.
"""

from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import DecoderLayer, DeltaOptions, LayerNames
from ..nn.block_sparse import BlockOptions, PooledBlockAttention
from ..nn.hyper import GatedStreams
from ..nn.ngram import HashOptions, NgramMemory, ngram_hashes
from ..state import LayerState, ListSpec, StateSpec, part
from . import qwen3_5_moe_text
from .parts import Drop, ModelNames, PassingBackbone, Stack, expert_rules, refuse

_INDEX = "indexer_n_heads", "indexer_kv_heads", "indexer_head_dim", "indexer_budget", "indexer_compress_ratio"


class ModelArgs(qwen3_5_moe_text.ModelArgs):
    fixed = {"indexer_kv_heads": (1,), **dict.fromkeys(("hc_count", "ngram_size"), tuple(range(2, 65)))}
    multiples = qwen3_5_moe_text.ModelArgs.multiples | {"indexer_budget": "indexer_compress_ratio"}
    positive = (
        *_INDEX, "hc_lowrank", "ple_embed_dim", "ple_conv_kernel_size", "heads_per_ngram", "ngram_vocab_size_base",
        "make_ngram_vocab_size_divisible_by", "num_experts",
    )  # fmt: skip
    rope_theta: float = 10000.0
    partial_rotary_factor: float = 1.0
    num_experts: int = 512
    num_experts_per_tok: int = 10
    output_gate_type: str | None = None
    hc_count: int = 4
    hc_lowrank: int = 320
    ple_layer_ids: list[int] | None = None
    ple_embed_dim: int | None = None
    ple_conv_kernel_size: int = 4
    ngram_size: int = 3
    heads_per_ngram: int = 8
    ngram_vocab_size_base: int = 20_000_000
    make_ngram_vocab_size_divisible_by: int = 128
    seed: int = 1234
    indexer_n_heads: int | None = None
    indexer_kv_heads: int | None = None
    indexer_head_dim: int | None = None
    indexer_budget: int | None = None
    indexer_compress_ratio: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self) -> None:
        kinds = self.layer_types or []
        self.layer_types = ["full_attention" if kind == "indexed_attention" else kind for kind in kinds] or None
        super().__post_init__()
        self.ple_embed_dim = self.ple_embed_dim or self.hidden_size
        self.ple_layer_ids = sorted(set(self.ple_layer_ids or []))
        indexed, remembers = "full_attention" in (self.layer_types or []), bool(self.ple_layer_ids)
        gate, heads = self.output_gate_type or self.hidden_act, (self.ngram_size - 1) * self.heads_per_ngram
        missing = [name for name in _INDEX if indexed and getattr(self, name) is None]
        turned, size = int(self.heads[2] * self.partial_rotary_factor), self.indexer_head_dim or 0
        linear = all(1 <= i <= self.num_hidden_layers and self.is_linear(i - 1) for i in self.ple_layer_ids)
        refuse(missing, f"full_attention layers need {missing}")
        refuse(gate not in ("sigmoid", "silu"), f"output_gate_type={gate!r} is not 'sigmoid' or 'silu'")
        refuse(indexed and (size % 2 or size < turned), f"indexer_head_dim={size} is odd, or less than what is rotated")
        refuse(remembers and self.ple_embed_dim % heads, f"ple_embed_dim is no multiple of the {heads} n-grams' heads")
        refuse(not linear, f"ple_layer_ids={self.ple_layer_ids} are not all linear_attention layers, from 1 on")
        refuse(remembers and self.eos_token_id in (None, []), "ple_layer_ids needs eos_token_id")

    def linear_options(self) -> DeltaOptions:
        return replace(super().linear_options(), gate_act=self.output_gate_type or self.hidden_act)

    def hashes(self, index: int) -> HashOptions:
        """The n-gram table of layer `index`, which has one."""
        end = self.eos_token_id[0] if isinstance(self.eos_token_id, list) else self.eos_token_id
        sizes = {"rows": self.ngram_vocab_size_base, "dims": self.ple_embed_dim or 0, "vocab_size": self.vocab_size}
        sizes |= {"pad": self.make_ngram_vocab_size_divisible_by, "order": (self.ple_layer_ids or []).index(index + 1)}
        return ngram_hashes(self.ngram_size, self.heads_per_ngram, end=end or 0, seed=self.seed, **sizes)


class Layer(DecoderLayer):
    """Streams (B, L, N, D) of tokens `ids` (B, L) through an n-gram memory or none, a mixer and experts."""

    def add(self, args: ModelArgs, index: int) -> None:
        for name in ("attn_hyper_connection", "mlp_hyper_connection"):
            self[name] = GatedStreams(args.hc_count, args.hidden_size, args.hc_lowrank, args.rms_norm_eps)
        if index + 1 in (args.ple_layer_ids or []):
            sizes = args.hc_count, args.hidden_size
            self.ple = NgramMemory(*sizes, args.hashes(index), args.ple_conv_kernel_size, args.rms_norm_eps)

    def state_spec(self) -> StateSpec:
        own = super().state_spec()
        return ListSpec((own, self.ple.state_spec())) if "ple" in self else own

    def pass_on(self, x: mx.array, state: LayerState, ids: mx.array) -> tuple[mx.array, mx.array]:
        if "ple" in self:
            x = x + self.ple(x, ids, part(state, 1))
            state = part(state, 0)
        x = self.attn_hyper_connection.through(x, lambda h: self._mix(h, state))
        return self.mlp_hyper_connection.through(x, self._feed), ids


class StreamBackbone(PassingBackbone):
    """Every stream begins with the embeddings."""

    def begin(self, h: mx.array, inputs: mx.array) -> tuple[mx.array, Any]:
        return mx.repeat(h[:, :, None], self[self._names.norm].streams, axis=2), inputs


class Model(qwen3_5_moe_text.Model):
    names = ModelNames(norm="hyper_connection_mixer")
    backbone_type = StreamBackbone
    layer_type = Layer
    norm_options = {"offset": 1.0}
    rules = (
        Drop(r"^mtp\."),
        Drop(r"\.ple_embedding\.(layer_multipliers|ngram_heads_(vocab_sizes|offsets))$"),  # follow from the config
        Stack(r"(?P<at>.*\.ngram_embedding)\.shard_(?P<expert>\d+)\.(?P<kind>\w+)", r"\g<at>.\g<kind>", join=True),
        *expert_rules(),
    )

    def names_at(self, args: Any, index: int) -> LayerNames:
        return replace(super().names_at(args, index), pre_mixer=None, pre_feed_forward=None)

    def final_norm(self, args: Any) -> nn.Module:
        return GatedStreams(args.hc_count, args.hidden_size, args.hc_lowrank, args.rms_norm_eps, spreads=False)

    def mixer(self, args: Any, index: int) -> nn.Module | None:
        size, top_k = args.indexer_compress_ratio, args.indexer_budget // args.indexer_compress_ratio
        blocks = BlockOptions(args.indexer_n_heads, args.indexer_head_dim, size, top_k, 0, args.rms_norm_eps)
        return PooledBlockAttention(self.attention_options(args, index), blocks)
