"""RWKV-7 and PLaMo 2 in float64, a token at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from .maths import Array, Draw, attention, gated, heads, layer_norm, merge, rms, rope, sigmoid, silu, softplus

__all__ = ["plamo2", "rwkv7"]

Config = dict[str, Any]


def _before(x: Array) -> Array:
    """Each token's predecessor; zeros before the first."""
    return np.concatenate([np.zeros_like(x[:1]), x[:-1]])


def rwkv7(c: Config, w: Draw, ids: Any) -> Array:
    """https://arxiv.org/abs/2503.14456, equations 3 to 17, under the names of flash-linear-attention."""
    d, size, eps = c["hidden_size"], c["head_dim"], c["norm_eps"]
    h = d // size

    def norm(name: str, x: Array) -> Array:
        return layer_norm(x, w(f"{name}.weight", d), w(f"{name}.bias", d), eps)

    x = w("model.embeddings.weight", c["vocab_size"], d, spread=1.0)[ids]
    first = np.zeros_like(x)
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        x = norm(f"{at}pre_norm", x) if i == 0 else x
        y = norm(f"{at}attn_norm", x)
        at += "attn."

        def mixed(name: str, y: Array = y, at: str = at) -> Array:
            return y + (_before(y) - y) * w(f"{at}x_{name}", 1, 1, d, spread=0.5).reshape(d)

        def narrow(name: str, z: Array, act: Any, bias: bool = True, at: str = at) -> Array:
            rank = c[{"w": "decay", "g": "gate"}.get(name, name) + "_low_rank_dim"]
            low = act(z @ w(f"{at}{name}_lora.lora.0.weight", rank, d).T)
            out = low @ w(f"{at}{name}_lora.lora.2.weight", d, rank).T
            return out + (w(f"{at}{name}_lora.lora.2.bias", d) if bias else 0)

        def same(z: Array) -> Array:
            return z

        r, k, v = (mixed(n) @ w(f"{at}{n}_proj.weight", d, d).T for n in "rkv")
        decay = np.exp(-np.exp(-0.5) * sigmoid(narrow("w", mixed("w"), np.tanh)))
        if i == 0:
            first = v
        else:
            v = v + (first - v) * sigmoid(narrow("v", mixed("v"), same))
        rate = sigmoid(narrow("a", mixed("a"), same))
        gate = narrow("g", mixed("g"), sigmoid, bias=False)
        removed = (k * w(f"{at}k_k", d, center=1.0)).reshape(-1, h, size)
        removed = removed / np.linalg.norm(removed, axis=-1, keepdims=True)
        k = k * (1 + (rate - 1) * w(f"{at}k_a", d, center=1.0))
        r, k, v, decay, rate = (a.reshape(-1, h, size) for a in (r, k, v, decay, rate))
        state, out = np.zeros((h, size, size)), np.zeros_like(r)
        for t in range(len(ids)):
            heard = np.einsum("hvk,hk->hv", state, removed[t])
            state = state * decay[t][:, None]
            state = state - heard[:, :, None] * (removed[t] * rate[t])[:, None] + v[t][:, :, None] * k[t][:, None]
            out[t] = np.einsum("hvk,hk->hv", state, r[t])
        normed = layer_norm(out, 1.0, 0.0, eps * size).reshape(-1, d)
        normed = normed * w(f"{at}g_norm.weight", d) + w(f"{at}g_norm.bias", d)
        bonus = (r * k * w(f"{at}r_k", h, size)).sum(-1, keepdims=True) * v
        x = x + ((normed + bonus.reshape(-1, d)) * gate) @ w(f"{at}o_proj.weight", d, d).T
        at = f"model.layers.{i}."
        y = norm(f"{at}ffn_norm", x)
        z = y + (_before(y) - y) * w(f"{at}ffn.x_k", d, spread=0.5)
        size_up = c["intermediate_size"]
        z = np.maximum(z @ w(f"{at}ffn.key.weight", size_up, d).T, 0) ** 2
        x = x + z @ w(f"{at}ffn.value.weight", d, size_up).T
    return norm("model.norm", x) @ w("lm_head.weight", c["vocab_size"], d).T


def _plamo2_mamba(c: Config, w: Draw, at: str, x: Array) -> Array:
    d, h, size, n, kernel = (
        c[k] for k in ("hidden_size", "mamba_num_heads", "hidden_size_per_head", "mamba_d_state", "mamba_d_conv")
    )
    inner, rank = h * size, max(64, d // 16)
    both = (x @ w(f"{at}in_proj.weight", 2 * inner, d).T).reshape(-1, h, 2 * size)
    gate, x = both[..., :size].reshape(-1, inner), both[..., size:].reshape(-1, inner)
    weight = w(f"{at}conv1d.weight", inner, 1, kernel, spread=0.5)[:, 0]
    padded = np.concatenate([np.zeros((kernel - 1, inner)), x])
    x = silu(sum(padded[i : i + len(x)] * weight[:, i] for i in range(kernel)))
    maps = x @ w(f"{at}bcdt_proj.weight", rank + 2 * n, inner).T
    b, c_map, dt = (
        rms(a, w(f"{at}{name}_norm_weight", a.shape[-1]), c["rms_norm_eps"])
        for a, name in zip(np.split(maps, [n, 2 * n], axis=-1), ("B", "C", "dt"), strict=True)
    )
    dt = softplus(dt @ w(f"{at}dt_proj.weight", h, rank).T + w(f"{at}dt_bias", h))
    decay = np.exp(-np.exp(w(f"{at}A_log", h)) * dt)
    x = x.reshape(-1, h, size)
    state, out = np.zeros((h, size, n)), np.zeros_like(x)
    for t in range(len(x)):
        state = state * decay[t][:, None, None] + (dt[t][:, None] * x[t])[:, :, None] * b[t]
        out[t] = state @ c_map[t] + w(f"{at}D", h)[:, None] * x[t]
    return (out.reshape(-1, inner) * silu(gate)) @ w(f"{at}out_proj.weight", d, inner).T


def _plamo2_attention(c: Config, w: Draw, at: str, x: Array, window: int | None) -> Array:
    d, h, g, size = (
        c[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads", "hidden_size_per_head")
    )
    fused = x @ w(f"{at}qkv_proj.weight", (h + 2 * g) * size, d).T
    q, k, v = np.split(fused, [h * size, (h + g) * size], axis=-1)
    q = rope(rms(heads(q, h), w(f"{at}q_weight", h, size, center=1.0)[:, None], 1e-6))
    k = rope(rms(heads(k, g), w(f"{at}k_weight", g, size, center=1.0)[:, None], 1e-6))
    return merge(attention(q, k, heads(v, g), window=window and window + 1)) @ w(f"{at}o_proj.weight", d, h * size).T


def plamo2(c: Config, w: Draw, ids: Any) -> Array:
    """https://arxiv.org/abs/2509.04897: Samba-like, with a norm on each side of each branch."""
    d, eps, step = c["hidden_size"], c["rms_norm_eps"], c["mamba_step"]
    table = w("model.embed_tokens.weight", c["vocab_size"], d, spread=0.3)
    x = table[ids]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.layers.{i}."

        def norm(name: str, x: Array, offset: float, at: str = at) -> Array:
            return rms(x, w(f"{at}{name}.weight", d, center=0.0) + offset, eps)

        y = norm("pre_mixer_norm", x, 1.0)
        last = c["num_hidden_layers"] - 1
        mamba = i != last if c["num_hidden_layers"] <= step // 2 else i % step != step // 2
        if mamba:
            y = _plamo2_mamba(c, w, f"{at}mixer.", y)
        else:
            window = None if i in (c["full_attention_idx"] or []) else c["attention_window_size"]
            y = _plamo2_attention(c, w, f"{at}mixer.", y, window)
        x = x + norm("post_mixer_norm", y, 1 / 5)
        y, size = norm("pre_mlp_norm", x, 1.0), c["intermediate_size"]
        gate, up = np.split(w(f"{at}mlp.gate_up_proj.weight", 2 * size, d), 2)
        x = x + norm("post_mlp_norm", gated(y, gate, up, w(f"{at}mlp.down_proj.weight", d, size)), 5**-1.5)
    return rms(x, w("model.norm.weight", d, center=0.0) + 1, eps) @ table.T
