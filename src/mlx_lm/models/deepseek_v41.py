"""DeepSeek-V4.1, the text model: compressed entries that layers share, n-gram memories, weights handed to the next.

Each block's streams are collapsed by weights that the block before it has computed. The draft layers (`mtp.*`) and
the image tower are dropped. Source: https://huggingface.co/deepseek-ai/DeepSeek-V4.1-Flash.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import mlx.core as mx
from mlx import nn

from ..nn import Routing
from ..nn.entry_index import Shared, Sharing
from ..nn.hyper import weighted
from ..nn.ngram import Engram, HashOptions, prime_sizes
from ..nn.shared_entries import SharedEntryAttention
from ..state import LayerState, ListSpec, StateSpec, part
from ..tokenizer.folded import folded_ids
from . import deepseek_v4
from .deepseek_v4 import _SLIDING, _SPARSE
from .parts import CausalLM, Drop, PassingBackbone, Rename, refuse
from .weights import Weights

_SHARED = "shared_compressed_attention"
# What collapses the streams next (B, L, N), the folded token ids and the one before the start, what layers share.
_Passed: TypeAlias = tuple[mx.array, tuple[mx.array, mx.array], Shared | None]


class ModelArgs(deepseek_v4.ModelArgs):
    fixed = deepseek_v4.ModelArgs.fixed | {"topk_method": ("noaux_tc",), "num_hash_layers": (0,)}
    positive = (*deepseek_v4.ModelArgs.positive, "gate_temp")
    aliases = {"num_local_experts": "n_routed_experts", "engram_pad_id": "engram_pad_token_id"}
    rms_norm_eps: float = 1e-20
    q_lora_rank: int = 1280
    qk_rope_head_dim: int | None = 64
    moe_intermediate_size: int = 2304
    n_routed_experts: int = 384
    num_hash_layers: int = 0
    index_n_heads: int = 32
    gate_temp: float = 1.0
    compress_ratios: list[int] | None = None
    kv_source_layer_ids: list[int] | None = None
    index_source_layer_ids: list[int] | None = None
    candidate_source_layer_id: int | None = None
    candidate_topk_blocks: int = 2048
    candidate_block_size: int = 8
    engram_layer_ids: list[int] | None = None
    engram_num_embeddings: list[int] | None = None
    engram_max_ngram_size: int = 4
    engram_vocab_size: int = 16_000_000
    engram_n_heads: int = 8
    engram_head_dim: int = 256
    engram_pad_token_id: int = 2
    engram_compressed_vocab_size: int | None = None

    @classmethod
    def prepared(cls, flat: dict[str, Any]) -> dict[str, Any]:
        """Ratios are no kinds of layers here."""
        return flat

    def __post_init__(self) -> None:
        count, given = self.num_hidden_layers, self.layer_types
        self.ratios = list(self.compress_ratios or [])[:count]  # what follows is of draft layers
        fits = len(self.ratios) == count and all(0 <= ratio <= self.max_position_embeddings for ratio in self.ratios)
        refuse(not fits, f"compress_ratios={self.compress_ratios!r} must have one for each layer")
        makes = self.kv_source_layer_ids or []
        kinds = [_SHARED if i in makes else _SLIDING for i in range(count)]
        hashed = "hash_moe" in (self.mlp_layer_types or [])
        self.layer_types, self.mlp_layer_types = [_SPARSE if r else _SLIDING for r in self.ratios], ["moe"] * count
        super().__post_init__()
        wrong = {
            f"layer_types={given!r} beside kv_source_layer_ids={makes!r}": given not in (None, kinds),
            "hash layers": hashed,
            f"head_dim={self.head_dim}, no multiple of 32": (self.head_dim or 0) % 32,
            f"index_head_dim={self.index_head_dim}, no multiple of 32": any(self.ratios) and self.index_head_dim % 32,
            **self._wrong_sources(set(makes), set(self.index_source_layer_ids or [])),
            **(self._wrong_engrams() if self.engram_layer_ids else {}),
        }
        for what, is_so in wrong.items():
            refuse(is_so, f"{what} is not supported for model type {self.model_type!r}")

    def _wrong_sources(self, makes: set[int], chooses: set[int]) -> dict[str, Any]:
        """Every layer with a ratio reads entries of that ratio, and a choice, of a layer up to itself."""
        pool, rates, rate = self.candidate_source_layer_id, [], 0
        for i, ratio in enumerate(self.ratios):
            rate = ratio if i in makes else rate
            rates.append(rate if ratio else 0)
        pooled = pool is not None and pool >= 0
        compressed = {i for i, ratio in enumerate(self.ratios) if ratio}
        return {
            f"kv_source_layer_ids={sorted(makes)} outside index_source_layer_ids": not makes <= chooses,
            f"index_source_layer_ids={sorted(chooses)} without compress_ratios": not chooses <= compressed,
            f"compress_ratios={self.ratios} other than of a kv_source_layer_ids before": rates != self.ratios,
            "no candidate_source_layer_id": makes and pool is None,
            f"candidate_source_layer_id={pool}": pooled and (pool not in chooses or any(i > pool for i in makes)),
            "candidate_topk_blocks or candidate_block_size below 1": pooled
            and min(self.candidate_topk_blocks, self.candidate_block_size) < 1,
        }

    def _wrong_engrams(self) -> dict[str, Any]:
        layers, rows = self.engram_layer_ids or [], self.engram_num_embeddings or []
        size, heads, folded = self.engram_max_ngram_size, self.engram_n_heads, self.engram_compressed_vocab_size
        each = len(rows) == len(layers) == len({*layers} & {*range(self.num_hidden_layers)})
        return {
            f"engram_layer_ids={layers!r} with engram_num_embeddings={rows!r}": not each,
            f"engram_max_ngram_size={size} with engram_n_heads={heads}": size < 2 or not 1 <= heads * size <= 1024,
            f"engram_vocab_size={self.engram_vocab_size}": not 1 <= self.engram_vocab_size < 2**31,
            f"engram_head_dim={self.engram_head_dim}": not 1 <= self.engram_head_dim < 2**20,
            f"engram_pad_token_id={self.engram_pad_token_id}": not 0 <= self.engram_pad_token_id < self.vocab_size,
            f"engram_compressed_vocab_size={folded}": not 1 <= (folded or 0) <= self.vocab_size,
        }

    def sharing(self, index: int) -> Sharing:
        """What layer `index` does for those after it."""
        pool, chooses = self.candidate_source_layer_id, index in (self.index_source_layer_ids or [])
        pool = -1 if pool is None else pool
        blocks = self.candidate_topk_blocks if index == pool else 0
        makes, pooled = index in (self.kv_source_layer_ids or []), chooses and 0 <= pool < index
        return Sharing(self.ratios[index], makes, chooses, blocks, self.candidate_block_size, pooled)

    def hashes(self, index: int) -> HashOptions:
        """The n-gram table of layer `index`, which has one."""
        import numpy as np

        order = (self.engram_layer_ids or []).index(index)
        rows, size = (self.engram_num_embeddings or [])[order], self.engram_max_ngram_size
        sizes = prime_sizes(self.engram_vocab_size, (size - 1) * self.engram_n_heads, order)
        fits = sum(sizes) <= rows < 2**31
        refuse(not fits, f"engram_num_embeddings has {rows} rows, where {sum(sizes)} are hashed to")
        most = max(1, (2**63 - 1) // (self.engram_compressed_vocab_size or 1) // 2)
        drawn = np.random.default_rng(10007 * index).integers(0, most, size=size, dtype=np.int64)
        return HashOptions(sizes, tuple(2 * int(n) + 1 for n in drawn), rows, self.engram_head_dim, hidden=-1)


class Layer(deepseek_v4.Layer):
    """Streams (B, L, N, D) through an n-gram memory or none, attention and experts."""

    def add(self, args: Any, index: int) -> None:
        super().add(args, index)
        if index in (args.engram_layer_ids or []):
            self.engram = Engram(args.hc_mult, args.hidden_size, args.hashes(index), args.rms_norm_eps)

    def state_spec(self) -> StateSpec:
        own = super().state_spec()
        return ListSpec((own, self.engram.state_spec())) if "engram" in self else own

    def pass_on(self, x: mx.array, state: LayerState, passed: _Passed) -> tuple[mx.array, _Passed]:  # type: ignore[override]
        """The streams after the layer, and what the next one gets."""
        pre, ids, shared = passed
        if "engram" in self:
            x = x + self.engram(x, *ids, part(state, 1))
            state = part(state, 0)
        own, post, mix = self.attn_hc.weights(x)
        y, shared = self.self_attn.attend(self["input_layernorm"](weighted(x, pre)), state, shared)
        x = self.attn_hc.spread(y, x, post, mix)
        following, post, mix = self.ffn_hc.weights(x)
        y = self.mlp(self["post_attention_layernorm"](weighted(x, own)))
        return self.ffn_hc.spread(y, x, post, mix), (following, ids, shared)


class StreamBackbone(PassingBackbone):
    """Hands each layer's weights and entries on to the next; `token_map` folds token ids that look alike."""

    def __init__(self, model: CausalLM, args: Any):
        super().__init__(model, args)
        self._streams, self._pad = args.hc_mult, args.engram_pad_token_id
        if args.engram_layer_ids:
            self.token_map = mx.zeros((args.vocab_size,), mx.int32)
            self.freeze(keys=["token_map"], recurse=False)

    def begin(self, h: mx.array, inputs: mx.array) -> tuple[mx.array, _Passed]:
        ids = (self.token_map[inputs], self.token_map[self._pad]) if "token_map" in self else (inputs, inputs)
        pre = mx.broadcast_to(mx.arange(self._streams) == 0, (*h.shape[:2], self._streams))
        return mx.repeat(h[:, :, None], self._streams, axis=2), (pre, ids, None)

    def end(self, h: mx.array, passed: _Passed) -> mx.array:
        return super().end(weighted(h, passed[0]), passed)


class Model(deepseek_v4.Model):
    backbone_type = StreamBackbone
    layer_type = Layer
    rules = (
        Drop(r"^(model\.)?(vision|aligner)\.|^(model\.)?image_(start|end|newline|pad)$|\.gate\.bias_vl$"),
        Rename(r"^model\.embed\.", "model.embed_tokens."),
        Rename(r"\.engram\.embed\.", ".engram.table.ngram_embedding."),
        Rename(r"\.indexer\.wk\.", ".indexer.k_proj."),
        Rename(r"\.mlp\.experts\.switch_mlp\.", ".mlp.switch_mlp."),
        *deepseek_v4.Model.rules,
    )

    @classmethod
    def complete(cls, config: Mapping[str, Any], weights: Weights, tokenizer: Callable[[], Any]) -> Weights:
        """Adds the folded ids, which a published checkpoint leaves to its tokenizer."""
        args = ModelArgs.from_dict(config)
        if not args.engram_layer_ids or "model.token_map" in weights:
            return weights
        ids = folded_ids(tokenizer().backend_tokenizer, args.vocab_size)
        given, folded = args.engram_compressed_vocab_size, max(ids) + 1
        refuse(given != folded, f"engram_compressed_vocab_size={given} is not the {folded} of the tokenizer")
        return weights | {"model.token_map": mx.array(ids, mx.int32)}

    def mixer(self, args: Any, index: int) -> nn.Module:
        rope, back = args.turns(index)
        return SharedEntryAttention(self.compressed_options(args, index, rope), back, args.sharing(index))

    def routing(self, args: Any) -> Routing:
        return replace(super().routing(args), normalize=args.num_experts_per_tok > 1, factor=1 / args.gate_temp)
