"""Latent attention, routing in groups, and families with both, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from .experts import _chosen, _mlp
from .maths import Array, Draw, attention, heads, merge, rms, rope, sigmoid, softmax

__all__ = ["grouped", "latent_attention", "longcat_flash_ngram"]

Config = dict[str, Any]


def latent_attention(c: Config, w: Draw, at: str, x: Array, *, turned: bool = True, grow: bool = False) -> Array:
    """https://arxiv.org/abs/2405.04434, 2.1: heads (H, L, value); `grow` undoes what compression took of the size."""
    d, h, rank = c["hidden_size"], c["num_attention_heads"], c["kv_lora_rank"]
    nope, turn, value = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    if c.get("q_lora_rank"):
        narrow = rms(
            x @ w(f"{at}.q_a_proj.weight", c["q_lora_rank"], d).T,
            w(f"{at}.q_a_layernorm.weight", c["q_lora_rank"]),
            1e-6,
        )
        q = narrow @ w(f"{at}.q_b_proj.weight", h * (nope + turn), c["q_lora_rank"]).T
        q = q * (d / c["q_lora_rank"]) ** 0.5 if grow else q
    else:
        q = x @ w(f"{at}.q_proj.weight", h * (nope + turn), d).T
    q = heads(q, h)
    both = x @ w(f"{at}.kv_a_proj_with_mqa.weight", rank + turn, d).T
    latent = rms(both[:, :rank], w(f"{at}.kv_a_layernorm.weight", rank), 1e-6)
    latent = latent * (d / rank) ** 0.5 if grow else latent
    k = heads(latent @ w(f"{at}.kv_b_proj.weight", h * (nope + value), rank).T, h)
    shared, last = both[None, :, rank:], q[..., nope:]
    if turned:
        shared, last = (rope(a, c["rope_theta"], pairs=True) for a in (shared, last))
    q = np.concatenate([q[..., :nope], last], -1)
    keys = np.concatenate([k[..., :nope], np.repeat(shared, h, axis=0)], -1)
    return attention(q, keys, k[..., nope:])


def grouped(choice: Array, groups: int, top: int) -> Array:
    """-inf where an expert's group is not among the `top` by the sum of its two best."""
    split = choice.reshape(len(choice), groups, -1).copy()
    rank = np.sort(split, axis=-1)[..., -2:].sum(-1)
    np.put_along_axis(split, np.argsort(-rank, axis=-1)[:, top:, None], -np.inf, axis=1)
    return split.reshape(len(choice), -1)


def _ngrams(c: Config, w: Draw, ids: Any, own: Array) -> Array:
    """The mean of the token's embedding and those of what ends with it, found by a rolling hash."""
    base, reach, split = c["vocab_size"], c["emb_neighbor_num"], c["emb_split_num"]
    total, count = own, split * (reach - 1)
    for i in range(count):
        size = int(c["ngram_vocab_size_ratio"] * base + 2 * i + 1)
        found = []
        for t in range(len(ids)):
            number = int(ids[t])
            for back in range(1, i // split + 2):
                if t - back < 0 or ids[t - back] == c["eos_token_id"]:
                    break
                number += int(ids[t - back]) * base**back
            found.append(number % size)
        at = "model.ngram_embeddings."
        rows = w(f"{at}embedders.{i}.weight", size, c["hidden_size"] // count, spread=1.0)[found]
        total = total + rows @ w(f"{at}post_projs.{i}.weight", c["hidden_size"], c["hidden_size"] // count).T
    return total / (1 + count)


def longcat_flash_ngram(c: Config, w: Draw, ids: Any) -> Array:
    """https://huggingface.co/meituan-longcat/LongCat-Flash-Lite over https://arxiv.org/abs/2509.01322."""
    d, h, eps, working = c["hidden_size"], c["num_attention_heads"], c["rms_norm_eps"], c["n_routed_experts"]
    x = _ngrams(c, w, ids, w("model.embed_tokens.weight", c["vocab_size"], d, spread=1.0)[ids])
    for i in range(c["num_layers"]):
        at, later = f"model.layers.{i}.", np.zeros_like(x)
        for half in range(2):
            y = rms(x, w(f"{at}input_layernorm.{half}.weight", d, center=1.0), eps)
            out = merge(latent_attention(c, w, f"{at}self_attn.{half}", y, grow=True))
            x = x + out @ w(f"{at}self_attn.{half}.o_proj.weight", d, h * c["v_head_dim"]).T
            y = rms(x, w(f"{at}post_attention_layernorm.{half}.weight", d, center=1.0), eps)
            if half == 0:
                count = working + c["zero_expert_num"]
                scores = softmax(y @ w(f"{at}mlp.router.classifier.weight", count, d, spread=0.5).T)
                bias = w(f"{at}mlp.router.e_score_correction_bias", count, spread=0.1)
                weights = _chosen(scores, scores + bias, c["moe_topk"]) * c["routed_scaling_factor"]
                for e in range(working):
                    later = later + weights[:, e : e + 1] * _mlp(
                        w, f"{at}mlp.experts.{e}", y, c["expert_ffn_hidden_size"]
                    )
                later = later + y * weights[:, working:].sum(-1, keepdims=True)
            x = x + _mlp(w, f"{at}mlps.{half}", y, c["ffn_hidden_size"])
        x = x + later
    return rms(x, w("model.norm.weight", d), eps) @ w("lm_head.weight", c["vocab_size"], d).T


def routed(w: Draw, at: str, y: Array, count: int, top: int, groups: int = 1, top_groups: int = 1) -> Array:
    """Weights (L, E) by sigmoid with a correction in the choice, divided by their sum (DeepSeek-V3)."""
    scores = sigmoid(y @ w(f"{at}.weight", count, y.shape[-1], spread=0.5).T)
    choice = grouped(scores + w(f"{at}.expert_bias", count, spread=0.1), groups, top_groups)
    weights = _chosen(scores, choice, top)
    return weights / weights.sum(-1, keepdims=True)
