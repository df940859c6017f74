"""Mixtures of experts that transformers does not implement, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from .maths import Array, Draw, attention, gated, heads, merge, rms, rope, sigmoid, softmax

__all__ = ["bailing_moe", "deepseek", "klear"]

Config = dict[str, Any]
_PARTS = ("gate_proj", "up_proj", "down_proj")


def _mlp(w: Draw, at: str, x: Array, size: int) -> Array:
    d = x.shape[-1]
    gate, up, down = (
        w(f"{at}.{n}.weight", *shape) for n, shape in zip(_PARTS, ((size, d), (size, d), (d, size)), strict=True)
    )
    return gated(x, gate, up, down)


def _experts(w: Draw, at: str, x: Array, weights: Array, size: int) -> Array:
    """Every expert on every token, by its weight (L, E), which is 0 where it was not chosen."""
    return sum(weights[:, e : e + 1] * _mlp(w, f"{at}.experts.{e}", x, size) for e in range(weights.shape[1]))


def _chosen(scores: Array, choice: Array, top_k: int) -> Array:
    """Scores of the `top_k` best by `choice`, zeros elsewhere."""
    kept = np.argsort(-choice, axis=-1)[:, :top_k]
    mask = np.zeros_like(scores)
    np.put_along_axis(mask, kept, 1.0, axis=-1)
    return scores * mask


def _attend(c: Config, w: Draw, at: str, x: Array, *, normed: bool = False) -> Array:
    d, h, g = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    size, eps = d // h, c["rms_norm_eps"]
    q, k, v = (heads(x @ w(f"{at}.{n}_proj.weight", m * size, d).T, m) for n, m in (("q", h), ("k", g), ("v", g)))
    if normed:
        q, k = rms(q, w(f"{at}.q_norm.weight", size), eps), rms(k, w(f"{at}.k_norm.weight", size), eps)
    out = merge(attention(rope(q, c["rope_theta"]), rope(k, c["rope_theta"]), v))
    return out @ w(f"{at}.o_proj.weight", d, h * size).T


def deepseek(c: Config, w: Draw, ids: Any) -> Array:
    """https://arxiv.org/abs/2401.06066: softmax routing without normalizing, shared experts."""
    d, eps, size = c["hidden_size"], c["rms_norm_eps"], c["moe_intermediate_size"]
    x = w("model.embed_tokens.weight", c["vocab_size"], d, spread=1.0)[ids]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        x = x + _attend(c, w, f"{at}self_attn", rms(x, w(f"{at}input_layernorm.weight", d), eps))
        y = rms(x, w(f"{at}post_attention_layernorm.weight", d), eps)
        if i < c["first_k_dense_replace"]:
            x = x + _mlp(w, f"{at}mlp", y, c["intermediate_size"])
            continue
        scores = softmax(y @ w(f"{at}mlp.gate.weight", c["n_routed_experts"], d, spread=0.5).T)
        weights = _chosen(scores, scores, c["num_experts_per_tok"])
        if c.get("norm_topk_prob"):
            weights = weights / weights.sum(-1, keepdims=True)
        x = x + _experts(w, f"{at}mlp", y, weights, size)
        x = x + _mlp(w, f"{at}mlp.shared_experts", y, size * c["n_shared_experts"])
    return rms(x, w("model.norm.weight", d), eps) @ w("lm_head.weight", c["vocab_size"], d).T


def klear(c: Config, w: Draw, ids: Any) -> Array:
    """https://huggingface.co/Kwai-Klear/Klear-46B-A2.5B-Base: each token weighs routed against shared experts."""
    d, eps, size = c["hidden_size"], c["rms_norm_eps"], c["moe_intermediate_size"]
    x = w("model.embed_tokens.weight", c["vocab_size"], d, spread=1.0)[ids]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        x = x + _attend(c, w, f"{at}self_attn", rms(x, w(f"{at}input_layernorm.weight", d), eps), normed=True)
        y = rms(x, w(f"{at}post_attention_layernorm.weight", d), eps)
        at += "mlp"
        if i in c["mlp_only_layers"]:
            x = x + _mlp(w, at, y, c["intermediate_size"])
            continue
        scores = sigmoid(y @ w(f"{at}.gate.weight", c["num_experts"], d, spread=0.5).T)
        weights = _chosen(scores, scores + w(f"{at}.expert_bias", c["num_experts"]), c["num_experts_per_tok"])
        weights = weights / weights.sum(-1, keepdims=True)
        shares = softmax(y @ w(f"{at}.coefficient.weight", 2, d, spread=0.5).T + w(f"{at}.coefficient.bias", 2))
        routed = _experts(w, at, y, weights, size)
        shared = _mlp(w, f"{at}.shared_experts", y, size * c["n_shared_experts"])
        x = x + shares[:, :1] * routed + shares[:, 1:] * shared
    return rms(x, w("model.norm.weight", d), eps) @ w("lm_head.weight", c["vocab_size"], d).T


def bailing_moe(c: Config, w: Draw, ids: Any) -> Array:
    """Ling (https://arxiv.org/abs/2503.05139) and Ling 2 (sigmoid routing in groups, norms on heads)."""
    d, h, g, eps = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["rms_norm_eps"]
    size, count = d // h, c["num_experts"]
    turned = int(size * c.get("partial_rotary_factor", 1.0))
    x = w("model.word_embeddings.weight", c["vocab_size"], d, spread=1.0)[ids]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        y = rms(x, w(f"{at}input_layernorm.weight", d), eps)
        fused = y @ w(f"{at}attention.query_key_value.weight", (h + 2 * g) * size, d).T
        q, k, v = (heads(a, m) for a, m in zip(np.split(fused, [h * size, (h + g) * size], -1), (h, g, g), strict=True))
        if c.get("use_qk_norm"):
            q = rms(q, w(f"{at}attention.query_layernorm.weight", size, center=1.0), eps)
            k = rms(k, w(f"{at}attention.key_layernorm.weight", size, center=1.0), eps)
        q, k = rope(q, c["rope_theta"], turned), rope(k, c["rope_theta"], turned)
        x = x + merge(attention(q, k, v)) @ w(f"{at}attention.dense.weight", d, h * size).T
        y = rms(x, w(f"{at}post_attention_layernorm.weight", d), eps)
        at += "mlp"
        if i < c["first_k_dense_replace"]:
            x = x + _mlp(w, at, y, c["intermediate_size"])
            continue
        logits = y @ w(f"{at}.gate.weight", count, d, spread=0.5).T
        scores = sigmoid(logits) if c.get("score_function") == "sigmoid" else softmax(logits)
        choice = scores + w(f"{at}.gate.expert_bias", count) if c.get("moe_router_enable_expert_bias") else scores
        if c.get("n_group", 1) > 1:
            groups = choice.reshape(len(y), c["n_group"], -1)
            rank = np.sort(groups, axis=-1)[..., -2:].sum(-1)
            out = np.argsort(-rank, axis=-1)[:, c["topk_group"] :]
            np.put_along_axis(groups, out[..., None], -np.inf, axis=1)
            choice = groups.reshape(len(y), -1)
        weights = _chosen(scores, choice, c["num_experts_per_tok"])
        if c["norm_topk_prob"]:
            weights = weights / weights.sum(-1, keepdims=True)
        x = x + c.get("routed_scaling_factor", 1.0) * _experts(w, at, y, weights, c["moe_intermediate_size"])
        x = x + _mlp(w, f"{at}.shared_experts", y, c["moe_intermediate_size"] * c["num_shared_experts"])
    return rms(x, w("model.norm.weight", d), eps) @ w("lm_head.weight", c["vocab_size"], d).T
