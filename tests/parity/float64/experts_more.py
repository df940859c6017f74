"""More mixtures of experts that transformers does not implement, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from .experts import _chosen, _mlp
from .maths import Array, Draw, attention, heads, merge, rms, rope, sigmoid, silu, softmax

__all__ = ["hunyuan", "step3p5"]

Config = dict[str, Any]


def _at(value: Any, i: int) -> Any:
    return value[i] if isinstance(value, list) else value


def hunyuan(c: Config, w: Draw, ids: Any) -> Array:
    """https://arxiv.org/abs/2411.02265: keys, once rotated, and values serve a group of layers; each norms them."""
    d, h, g, eps = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["rms_norm_eps"]
    size, theta = c.get("attention_head_dim") or d // h, c["rope_theta"]
    if c.get("rope_scaling"):
        theta = theta * c["rope_scaling"]["alpha"] ** (size / (size - 2))
    table = w("model.embed_tokens.weight", c["vocab_size"], d, spread=0.5)
    x, k, v = table[ids], np.zeros(0), np.zeros(0)
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        y = rms(x, w(f"{at}input_layernorm.weight", d), eps)
        q = rope(heads(y @ w(f"{at}self_attn.q_proj.weight", h * size, d).T, h), theta)
        if not c.get("use_cla") or i % c["cla_share_factor"] == 0:
            k, v = (heads(y @ w(f"{at}self_attn.{n}_proj.weight", g * size, d).T, g) for n in "kv")
            k = rope(k, theta)
        seen = k
        if c["use_qk_norm"]:
            q = rms(q, w(f"{at}self_attn.query_layernorm.weight", size), eps)
            seen = rms(k, w(f"{at}self_attn.key_layernorm.weight", size), eps)
        x = x + merge(attention(q, seen, v)) @ w(f"{at}self_attn.o_proj.weight", d, h * size).T
        y, at = rms(x, w(f"{at}post_attention_layernorm.weight", d), eps), f"{at}mlp"
        count, top = _at(c["num_experts"], i), _at(c["moe_topk"], i)
        if count == 1 or i < c.get("moe_layer_num_skipped", 0):
            x = x + _mlp(w, at, y, c["intermediate_size"])
            continue
        inner = _at(c.get("moe_intermediate_size"), i) or c["intermediate_size"]
        scores = softmax(y @ w(f"{at}.gate.wg.weight", count, d, spread=0.5).T)
        weights = _chosen(scores, scores, top)
        weights = weights / weights.sum(-1, keepdims=True) if top > 1 else weights
        for e in range(count):
            x = x + weights[:, e : e + 1] * _mlp(w, f"{at}.experts.{e}", y, inner)
        if c["use_mixed_mlp_moe"]:
            x = x + _mlp(w, f"{at}.shared_mlp", y, inner * _at(c["num_shared_expert"], i))
    return rms(x, w("model.norm.weight", d), eps) @ table.T


def _llama3(base: Array, s: dict[str, Any]) -> Array:
    """https://arxiv.org/abs/2407.21783: long waves are slowed, short ones kept."""
    turns = s["original_max_position_embeddings"] * base / (2 * np.pi)
    low, high = s["low_freq_factor"], s["high_freq_factor"]
    keep = np.clip((turns - low) / (high - low), 0, 1)
    return base * keep + base / s["factor"] * (1 - keep)


def step3p5(c: Config, w: Draw, ids: Any) -> Array:
    """https://huggingface.co/stepfun-ai/Step-3.5-Flash; norms have 1 added to their weights."""
    d, eps, size = c["hidden_size"], c["rms_norm_eps"], c["head_dim"]
    sparse = [int(n) for n in c["moe_layers_enum"].split(",")]

    def norm(name: str, a: Array) -> Array:
        return rms(a, 1 + w(name, a.shape[-1], center=0.0), eps)

    def glu(at: tuple[Array, Array, Array], a: Array, limit: float) -> Array:
        limit = limit or np.inf
        return (np.minimum(silu(a @ at[0].T), limit) * np.clip(a @ at[1].T, -limit, limit)) @ at[2].T

    def dense(at: str, inner: int) -> tuple[Array, Array, Array]:
        shapes = {"gate": (inner, d), "up": (inner, d), "down": (d, inner)}
        gate, up, down = (w(f"{at}.{n}_proj.weight", *shape) for n, shape in shapes.items())
        return gate, up, down

    x = w("model.embed_tokens.weight", c["vocab_size"], d, spread=1.0)[ids]
    for i in range(c["num_hidden_layers"]):
        at, kind = f"model.layers.{i}.", c["layer_types"][i]
        slides = kind == "sliding_attention"
        sizes = c["attention_other_setting"] if slides else c
        h, g = sizes["num_attention_heads"], sizes["num_attention_groups"]
        y = norm(f"{at}input_layernorm.weight", x)
        q, k, v = (
            heads(y @ w(f"{at}self_attn.{n}_proj.weight", m * size, d).T, m) for n, m in (("q", h), ("k", g), ("v", g))
        )
        q, k = norm(f"{at}self_attn.q_norm.weight", q), norm(f"{at}self_attn.k_norm.weight", k)
        dims = int(size * c["partial_rotary_factors"][i])
        freqs = c["rope_theta"][i] ** (-np.arange(0, dims, 2) / dims)
        if kind in c["yarn_only_types"]:
            freqs = _llama3(freqs, c["rope_scaling"])
        q, k = rope(q, dims=dims, freqs=freqs), rope(k, dims=dims, freqs=freqs)
        out = attention(q, k, v, window=c["sliding_window"] if slides else None)
        if c["use_head_wise_attn_gate"]:
            out = out * sigmoid(y @ w(f"{at}self_attn.g_proj.weight", h, d, spread=0.5).T).T[..., None]
        x = x + merge(out) @ w(f"{at}self_attn.o_proj.weight", d, h * size).T
        y, shared = norm(f"{at}post_attention_layernorm.weight", x), c["swiglu_limits_shared"][i]
        if i not in sparse:
            x = x + glu(dense(f"{at}mlp", c["intermediate_size"]), y, shared)
            continue
        count, inner = c["moe_num_experts"], c["moe_intermediate_size"]
        scores = sigmoid(y @ w(f"{at}moe.gate.weight", count, d, spread=0.5).T)
        weights = _chosen(scores, scores + w(f"{at}moe.router_bias", count, center=0.0), c["moe_top_k"])
        weights = weights / weights.sum(-1, keepdims=True) * c["moe_router_scaling_factor"]
        gate, up, down = (
            w(f"{at}moe.{n}_proj.weight", count, *shape)
            for n, shape in (("gate", (inner, d)), ("up", (inner, d)), ("down", (d, inner)))
        )
        for e in range(count):
            x = x + weights[:, e : e + 1] * glu((gate[e], up[e], down[e]), y, c["swiglu_limits"][i])
        x = x + glu(dense(f"{at}share_expert", c["share_expert_dim"]), y, shared)
    return norm("model.norm.weight", x) @ w("lm_head.weight", c["vocab_size"], d).T
