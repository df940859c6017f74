"""DeepSeek-V4.1 in float64, from https://huggingface.co/deepseek-ai/DeepSeek-V4.1-Flash: the whole text at once."""

from __future__ import annotations

import math
from itertools import count
from typing import Any

import numpy as np

from .maths import Array, Draw, rms, sigmoid, silu, softmax, softplus

__all__ = ["deepseek_v41", "nearest"]

Config = dict[str, Any]
_FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
_FP8 = np.array([m * 2.0**-9 for m in range(8)] + [(8 + m) * 2.0**e for e in range(-9, 6) for m in range(8)][:-1])


def nearest(x: Array, grid: Array) -> Array:
    """The grid's nearest value with x's sign; of two equally near ones that at an even place."""
    size = np.minimum(np.abs(x), grid[-1])
    above = np.clip(np.searchsorted(grid, size), 1, len(grid) - 1)
    low, high = size - grid[above - 1], grid[above] - size
    up = (high < low) | ((high == low) & (above % 2 == 0))
    return np.copysign(grid[np.where(up, above, above - 1)], x)


def _rounded(x: Array, size: int, grid: Array, *, float_scale: bool = False) -> Array:
    """Blocks of `size` on the grid, with a scale that is a power of two or an 8-bit float."""
    blocks = x.reshape(*x.shape[:-1], -1, size)
    scale = np.abs(blocks).max(-1, keepdims=True) / grid[-1]
    scale = nearest(scale, _FP8) if float_scale else 2.0 ** np.ceil(np.log2(scale))
    return (nearest(blocks / scale, grid) * scale).reshape(x.shape)


def _turns(c: Config, ratio: int) -> Array:
    """Angles for each position by pair of features."""
    dims, theta = c["qk_rope_head_dim"], c["compress_rope_theta"] if ratio else c["rope_theta"]
    freqs = theta ** (-np.arange(0, dims, 2) / dims)
    if ratio and (scaling := c.get("rope_scaling")):
        trained = scaling["original_max_position_embeddings"]
        bound = [
            dims * math.log(trained / (n * 2 * math.pi)) / (2 * math.log(theta))
            for n in (scaling["beta_fast"], scaling["beta_slow"])
        ]
        low, high = max(math.floor(bound[0]), 0), min(math.ceil(bound[1]), dims - 1)
        slow = np.clip((np.arange(dims // 2) - low) / max(high - low, 0.001), 0, 1)
        freqs = freqs / scaling["factor"] * slow + freqs * (1 - slow)
    return freqs


def _turned(x: Array, freqs: Array, positions: Any) -> Array:
    """(..., L, D) with neighbouring pairs of the last features rotated."""
    first = x.shape[-1] - 2 * len(freqs)
    pairs = x[..., first::2] + 1j * x[..., first + 1 :: 2]
    pairs = pairs * np.exp(1j * np.asarray(positions)[:, None] * freqs)
    out = x.copy()
    out[..., first::2], out[..., first + 1 :: 2] = pairs.real, pairs.imag
    return out


def _best(scores: Array, size: int) -> Any:
    """A mask of the `size` best of one row; of equal ones the later, and none that is -inf."""
    order = sorted(range(len(scores)), key=lambda j: (-scores[j], -j))[:size]
    mask = np.zeros(len(scores), bool)
    mask[order] = True
    return mask & (scores > -np.inf)


def _entries(c: Config, w: Draw, at: str, y: Array, ratio: int, freqs: Array) -> tuple[Array, Array]:
    """The entries and the keys by which they are chosen."""
    d, size, few, eps = c["hidden_size"], c["head_dim"], c["index_head_dim"], c["rms_norm_eps"]
    whole = len(y) // ratio
    values = (y @ w(f"{at}compressor.wkv.weight", size, d).T)[: whole * ratio].reshape(whole, ratio, size)
    if ratio > 1:
        gates = (y @ w(f"{at}compressor.wgate.weight", size, d, spread=0.5).T)[: whole * ratio]
        values = values * softmax(gates.reshape(whole, ratio, size).swapaxes(1, 2)).swapaxes(1, 2)
    latent = rms(values.sum(1), w(f"{at}compressor.norm.weight", size), eps)
    where = np.arange(whole) * ratio
    keys = rms(latent @ w(f"{at}indexer.wk.weight", few, size).T, w(f"{at}indexer.k_norm.weight", few), eps)
    keys = _rounded(_turned(keys, freqs, where), 32, _FP4)
    return _rounded(_turned(latent, freqs, where), 16, _FP4, float_scale=True), keys


def _choose(c: Config, w: Draw, i: int, y: Array, low: Array, ratio: int, freqs: Array, shared: Config) -> None:
    at, h, size = f"layers.{i}.attn.indexer.", c["index_n_heads"], c["index_head_dim"]
    q = (low @ w(f"{at}wq_b.weight", h * size, c["q_lora_rank"]).T).reshape(-1, h, size).swapaxes(0, 1)
    q = _rounded(_turned(q, freqs, np.arange(len(y))), 32, _FP4)
    weights = y @ w(f"{at}weights_proj.weight", h, c["hidden_size"]).T
    scores = (np.maximum(q @ shared["keys"].T, 0) * weights.T[..., None]).sum(0) * (h * size) ** -0.5
    pool, block = c["candidate_source_layer_id"], c.get("candidate_block_size", 1)
    read = np.zeros(scores.shape, bool)
    marked = np.ones(scores.shape, bool)
    for t, row in enumerate(scores):
        row[(t + 1) // ratio :] = -np.inf
        if i == pool:
            best = np.array([row[j : j + block].max() for j in range(0, len(row), block)])
            if (t + 1) // ratio:
                best[((t + 1) // ratio - 1) // block] = np.inf
            marked[t] = np.repeat(_best(best, c["candidate_topk_blocks"]), block)[: len(row)]
        elif 0 <= pool < i:
            row[~shared["pool"][t]] = -np.inf
        read[t] = _best(row, c["index_topk"])
    shared["read"] = read
    if i == pool:
        shared["pool"] = marked


def _attend(c: Config, w: Draw, i: int, y: Array, shared: Config) -> Array:
    at, d, h, size = f"layers.{i}.attn.", c["hidden_size"], c["num_attention_heads"], c["head_dim"]
    eps, groups = c["rms_norm_eps"], c["o_groups"]
    ratio, rank, length, where = c["compress_ratios"][i], c["q_lora_rank"], len(y), np.arange(len(y))
    freqs = _turns(c, ratio)
    low = rms(y @ w(f"{at}wq_a.weight", rank, d).T, w(f"{at}q_norm.weight", rank), eps)
    q = (low @ w(f"{at}wq_b.weight", h * size, rank).T).reshape(length, h, size).swapaxes(0, 1)
    q = _turned(q, freqs, where)
    keys = rms(y @ w(f"{at}wkv.weight", size, d).T, w(f"{at}kv_norm.weight", size), eps)
    keys = _rounded(_turned(keys, freqs, where), 32, _FP8)
    seen = (where <= where[:, None]) & (where[:, None] - where < c["sliding_window"])
    if i in c["kv_source_layer_ids"]:
        shared["entries"], shared["keys"] = _entries(c, w, at, y, ratio, freqs)
    if i in c["index_source_layer_ids"]:
        _choose(c, w, i, y, low, ratio, freqs, shared)
    if ratio:
        keys, seen = np.concatenate([keys, shared["entries"]]), np.concatenate([seen, shared["read"]], axis=1)
    scores = np.where(seen, q @ keys.T * size**-0.5, -np.inf)
    sinks = np.broadcast_to(w(f"{at}attn_sink", h)[:, None, None], (h, length, 1))
    out = softmax(np.concatenate([scores, sinks], axis=-1))[..., :-1] @ keys
    out = _turned(out, -freqs, where).swapaxes(0, 1).reshape(length, groups, -1)
    weight = w(f"{at}wo_a.weight", groups * c["o_lora_rank"], out.shape[-1])
    narrow = np.einsum("lgi,goi->lgo", out, weight.reshape(groups, -1, out.shape[-1])).reshape(length, -1)
    return narrow @ w(f"{at}wo_b.weight", d, narrow.shape[-1]).T


def _expert(c: Config, w: Draw, at: str, y: Array) -> Array:
    d, size, limit = y.shape[-1], c["moe_intermediate_size"], c["swiglu_limit"]
    gate, up = y @ w(f"{at}.w1.weight", size, d).T, y @ w(f"{at}.w3.weight", size, d).T
    if limit > 0:
        gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
    return (silu(gate) * up) @ w(f"{at}.w2.weight", d, size).T


def _experts(c: Config, w: Draw, at: str, y: Array) -> Array:
    number, top = c["n_routed_experts"], c["num_experts_per_tok"]
    logits = y @ w(f"{at}gate.weight", number, y.shape[-1], spread=0.5).T / c.get("gate_temp", 1.0)
    score = {"sqrtsoftplus": lambda z: np.sqrt(softplus(z)), "sigmoid": sigmoid, "softmax": softmax}
    scores = score[c["scoring_func"]](logits)
    bias = w(f"{at}gate.bias", number, spread=0.3)
    chosen = np.array([_best(row, top) for row in scores + bias])
    weights = np.where(chosen, scores, 0)
    weights = weights / weights.sum(-1, keepdims=True) if top > 1 else weights
    weights = weights * c["routed_scaling_factor"]
    routed = sum(weights[:, e : e + 1] * _expert(c, w, f"{at}experts.{e}", y) for e in range(number))
    return routed + _expert(c, w, f"{at}shared_experts", y)


def _site(c: Config, w: Draw, at: str, x: Array) -> tuple[Array, Array, Array]:
    """Of streams (L, N, D) the weights that collapse, that spread, and that mix."""
    n, eps = c["hc_mult"], c["hc_eps"]
    flat = rms(x.reshape(len(x), -1), 1.0, c["rms_norm_eps"])
    raw = flat @ w(f"{at}_fn", (2 + n) * n, flat.shape[-1]).T
    base, scale = w(f"{at}_base", (2 + n) * n), w(f"{at}_scale", 3, center=1.0)
    raws, bases = (np.split(a, [n, 2 * n], axis=-1) for a in (raw, base))
    pre, post, mix = (r * s + b for r, s, b in zip(raws, scale, bases, strict=True))
    mix = softmax(mix.reshape(-1, n, n)) + eps
    for step in range(2 * c["hc_sinkhorn_iters"] - 1):
        mix = mix / (mix.sum(1 if step % 2 == 0 else 2, keepdims=True) + eps)
    return sigmoid(pre) + eps, 2 * sigmoid(post), mix


def _primes(first: int) -> Any:
    return (n for n in count(max(first, 2)) if all(n % k for k in range(2, math.isqrt(n) + 1)))


def _memory(c: Config, w: Draw, i: int, x: Array, ids: Any, pad: int) -> Array:
    """The streams with what the table knows of the last tokens."""
    layers, most, heads, width = (c[f"engram_{n}"] for n in ("layer_ids", "max_ngram_size", "n_heads", "head_dim"))
    n, d, at = c["hc_mult"], c["hidden_size"], f"layers.{i}.engram."
    order, columns = layers.index(i), (most - 1) * heads
    primes = _primes(c["engram_vocab_size"])
    sizes = [next(primes) for _ in range((order + 1) * columns)][order * columns :]
    bound = (2**63 - 1) // c["engram_compressed_vocab_size"] // 2
    factors = [2 * int(f) + 1 for f in np.random.default_rng(10007 * i).integers(0, bound, most)]
    table = w(f"{at}embed.weight", c["engram_num_embeddings"][order], width, spread=1.0)
    found = []
    for t in range(len(ids)):
        rows, mixed = [], int(ids[t]) * factors[0]
        for back in range(1, most):
            mixed ^= (int(ids[t - back]) if t >= back else pad) * factors[back]
            for size in sizes[(back - 1) * heads : back * heads]:
                rows.append(sum(sizes[: len(rows)]) + mixed % size)
        found.append(table[rows].reshape(-1))
    both = np.array(found) @ w(f"{at}wkv.weight", (n + 1) * d, columns * width).T
    keys, values = both[:, : n * d].reshape(-1, n, d), both[:, None, n * d :]
    gains = w(f"{at}q_weight", n, d, spread=0.2, center=1.0) * w(f"{at}k_weight", n, d, spread=0.2, center=1.0)
    eps = c["rms_norm_eps"]
    fit = (rms(x, 1.0, eps) * rms(keys, 1.0, eps) * gains).sum(-1, keepdims=True) * d**-0.5
    return x + sigmoid(np.copysign(np.sqrt(np.maximum(np.abs(fit), 1e-6)), fit)) * values


def deepseek_v41(c: Config, w: Draw, ids: Any) -> Array:
    d, n, eps, shared = c["hidden_size"], c["hc_mult"], c["rms_norm_eps"], {}
    folded, pad = ids, 0
    if c.get("engram_layer_ids"):
        fold = np.random.default_rng(3).integers(0, c["engram_compressed_vocab_size"], c["vocab_size"])
        w.tensors["model.token_map"] = fold.astype(np.int32)
        folded, pad = fold[ids], int(fold[c["engram_pad_token_id"]])
    embeddings = w("embed.weight", c["vocab_size"], d, spread=1.0)
    x = np.repeat(embeddings[ids][:, None], n, axis=1)
    pre = np.eye(n)[[0] * len(ids)]
    for i in range(c["num_hidden_layers"]):
        at = f"layers.{i}."
        x = _memory(c, w, i, x, folded, pad) if i in c.get("engram_layer_ids", []) else x
        for site, part in (("attn", _attend), ("ffn", None)):
            following, post, mix = _site(c, w, f"{at}hc_{site}", x)
            y = rms((pre[..., None] * x).sum(1), w(f"{at}{site}_norm.weight", d), eps)
            y = part(c, w, i, y, shared) if part else _experts(c, w, f"{at}ffn.", y)
            x, pre = post[..., None] * y[:, None] + np.einsum("ljk,ljd->lkd", mix, x), following
    hidden = rms((pre[..., None] * x).sum(1), w("norm.weight", d), eps)
    return hidden @ (embeddings if c["tie_word_embeddings"] else w("head.weight", c["vocab_size"], d)).T
