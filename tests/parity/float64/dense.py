"""Dense decoders that transformers does not implement, in float64. Each function draws its checkpoint as it goes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .maths import Array, Draw, attention, gated, heads, merge, rms, rope, silu

__all__ = ["exaone", "internlm2", "lille", "llama_like", "minicpm", "plamo", "qwen", "telechat3_freqs"]

Config = dict[str, Any]


def _mlp(c: Config, w: Draw, at: str, x: Array, size: int, names: tuple[str, str, str], act: Any = silu) -> Array:
    d = x.shape[-1]
    gate, up, down = names
    matrices = w(f"{at}{gate}.weight", size, d), w(f"{at}{up}.weight", size, d), w(f"{at}{down}.weight", d, size)
    return gated(x, *matrices, act)


_USUAL = ("gate_proj", "up_proj", "down_proj")


def llama_like(
    c: Config, w: Draw, ids: Any, *, qkv_bias: bool = False, freqs: Any = None, factor: float = 1.0, loops: int = 1
) -> Array:
    """Llama; MiMo with `qkv_bias`, TeleChat 3 with its own `freqs` and a `factor` on queries and keys."""
    d, h, g = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    size = c.get("head_dim") or d // h
    x = w("model.embed_tokens.weight", c["vocab_size"], d, spread=1.0)[ids]
    eps, last = c["rms_norm_eps"], w("model.norm.weight", d)
    for _ in range(loops):
        for i in range(c["num_hidden_layers"]):
            at = f"model.layers.{i}."
            y = rms(x, w(f"{at}input_layernorm.weight", d), eps)
            q, k, v = (
                y @ w(f"{at}self_attn.{n}_proj.weight", m * size, d).T
                + (w(f"{at}self_attn.{n}_proj.bias", m * size) if qkv_bias else 0)
                for n, m in (("q", h), ("k", g), ("v", g))
            )
            q, k = (factor * rope(heads(a, m), c["rope_theta"], freqs=freqs) for a, m in ((q, h), (k, g)))
            out = merge(attention(q, k, heads(v, g)))
            x = x + out @ w(f"{at}self_attn.o_proj.weight", d, h * size).T
            y = rms(x, w(f"{at}post_attention_layernorm.weight", d), eps)
            x = x + _mlp(c, w, f"{at}mlp.", y, c["intermediate_size"], _USUAL)
        x = rms(x, last, eps)
    return x @ w("lm_head.weight", c["vocab_size"], d).T


def internlm2(c: Config, w: Draw, ids: Any) -> Array:
    """https://arxiv.org/abs/2403.17297; `wqkv` holds, for each key head, its query heads, the key and the value."""
    d, h, g = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    size, share, eps = d // h, h // g, c["rms_norm_eps"]
    x = w("model.tok_embeddings.weight", c["vocab_size"], d, spread=1.0)[ids]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        y = rms(x, w(f"{at}attention_norm.weight", d), eps)
        fused = y @ w(f"{at}attention.wqkv.weight", (h + 2 * g) * size, d).T
        if c["bias"]:
            fused = fused + w(f"{at}attention.wqkv.bias", (h + 2 * g) * size)
        fused = fused.reshape(len(ids), g, share + 2, size)
        q = fused[:, :, :share].reshape(len(ids), h * size)
        q, k, v = heads(q, h), fused[:, :, share].transpose(1, 0, 2), fused[:, :, share + 1].transpose(1, 0, 2)
        out = merge(attention(rope(q, c["rope_theta"]), rope(k, c["rope_theta"]), v))
        out = out @ w(f"{at}attention.wo.weight", d, d).T
        x = x + out + (w(f"{at}attention.wo.bias", d) if c["bias"] else 0)
        y = rms(x, w(f"{at}ffn_norm.weight", d), eps)
        x = x + _mlp(c, w, f"{at}feed_forward.", y, c["intermediate_size"], ("w1", "w3", "w2"))
    return rms(x, w("model.norm.weight", d), eps) @ w("output.weight", c["vocab_size"], d).T


def minicpm(c: Config, w: Draw, ids: Any) -> Array:
    """https://arxiv.org/abs/2404.06395: scaled embeddings, branches and logits."""
    d, h, g, eps = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["rms_norm_eps"]
    size, branch = d // h, c["scale_depth"] / math.sqrt(c["num_hidden_layers"])
    table = w("model.embed_tokens.weight", c["vocab_size"], d, spread=0.3)
    x = table[ids] * c["scale_emb"]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        y = rms(x, w(f"{at}input_layernorm.weight", d), eps)
        q, k, v = (
            heads(y @ w(f"{at}self_attn.{n}_proj.weight", m * size, d).T, m) for n, m in (("q", h), ("k", g), ("v", g))
        )
        out = merge(attention(rope(q, c["rope_theta"]), rope(k, c["rope_theta"]), v))
        x = x + branch * (out @ w(f"{at}self_attn.o_proj.weight", d, d).T)
        y = rms(x, w(f"{at}post_attention_layernorm.weight", d), eps)
        x = x + branch * _mlp(c, w, f"{at}mlp.", y, c["intermediate_size"], _USUAL)
    x = rms(x, w("model.norm.weight", d), eps) / (d / c["dim_model_base"])
    head = table if c["tie_word_embeddings"] else w("lm_head.weight", c["vocab_size"], d, spread=1.0)
    return x @ head.T


def exaone(c: Config, w: Draw, ids: Any) -> Array:
    """https://arxiv.org/abs/2408.03541: Llama under GPT-2's names."""
    d, h, g, eps = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["layer_norm_epsilon"]
    size = d // h
    table = w("transformer.wte.weight", c["vocab_size"], d, spread=0.3)
    x = table[ids]
    for i in range(c["num_layers"]):
        at = f"transformer.h.{i}."
        y = rms(x, w(f"{at}ln_1.weight", d, center=1.0), eps)
        q, k, v = (
            heads(y @ w(f"{at}attn.attention.{n}_proj.weight", m * size, d).T, m)
            for n, m in (("q", h), ("k", g), ("v", g))
        )
        out = merge(attention(rope(q, c["rope_theta"]), rope(k, c["rope_theta"]), v))
        x = x + out @ w(f"{at}attn.attention.out_proj.weight", d, d).T
        y = rms(x, w(f"{at}ln_2.weight", d, center=1.0), eps)
        x = x + _mlp(c, w, f"{at}mlp.", y, c["intermediate_size"], ("c_fc_0", "c_fc_1", "c_proj"))
    return rms(x, w("transformer.ln_f.weight", d, center=1.0), eps) @ table.T


def qwen(c: Config, w: Draw, ids: Any) -> Array:
    """https://arxiv.org/abs/2309.16609: a fused projection with bias; the gate is `w2`; widths are halved."""
    d, h, eps, half = c["hidden_size"], c["num_attention_heads"], c["layer_norm_epsilon"], c["intermediate_size"] // 2
    size = c["kv_channels"]
    x = w("transformer.wte.weight", c["vocab_size"], d, spread=1.0)[ids]
    for i in range(c["num_hidden_layers"]):
        at = f"transformer.h.{i}."
        y = rms(x, w(f"{at}ln_1.weight", d, center=1.0), eps)
        fused = y @ w(f"{at}attn.c_attn.weight", 3 * h * size, d).T + w(f"{at}attn.c_attn.bias", 3 * h * size)
        q, k, v = (heads(a, h) for a in np.split(fused, 3, axis=-1))
        out = merge(attention(rope(q), rope(k), v))
        x = x + out @ w(f"{at}attn.c_proj.weight", d, h * size).T
        y = rms(x, w(f"{at}ln_2.weight", d, center=1.0), eps)
        x = x + _mlp(c, w, f"{at}mlp.", y, half, ("w2", "w1", "c_proj"))
    return rms(x, w("transformer.ln_f.weight", d, center=1.0), eps) @ w("lm_head.weight", c["vocab_size"], d).T


def plamo(c: Config, w: Draw, ids: Any) -> Array:
    """https://huggingface.co/pfnet/plamo-13b: one norm and both branches beside each other; one key head for n queries.

    Query head i reads key head i mod (the number of key heads).
    """
    d, h, eps = c["hidden_size"], c["num_attention_heads"], c["rms_norm_eps"]
    size, g = d // h, -(-h // c["n_shared_head"])
    x = w("model.embed_tokens.weight", c["vocab_size"], d, spread=1.0)[ids]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.layers.{i}."
        y = rms(x, w(f"{at}norm.weight", d), eps)
        q, k, v = (
            heads(y @ w(f"{at}self_attn.{n}_proj.weight", m * size, d).T, m) for n, m in (("q", h), ("k", g), ("v", g))
        )
        q, k = rope(q), rope(k)
        k, v = (np.tile(a, (c["n_shared_head"], 1, 1))[:h] for a in (k, v))
        out = merge(attention(q, k, v)) @ w(f"{at}self_attn.o_proj.weight", d, d).T
        x = x + out + _mlp(c, w, f"{at}mlp.", y, c["intermediate_size"], _USUAL)
    return rms(x, w("model.norm.weight", d), eps) @ w("lm_head.weight", c["vocab_size"], d).T


def telechat3_freqs(c: Config) -> tuple[Any, float]:
    """YaRN (https://arxiv.org/abs/2309.00071) and its factor on queries and keys."""
    s, size = c["rope_scaling"], c["head_dim"]
    base = c["rope_theta"] ** (-np.arange(0, size, 2) / size)

    def turns(n: float) -> float:
        trained = s["original_max_position_embeddings"]
        return size * math.log(trained / (n * 2 * math.pi)) / (2 * math.log(c["rope_theta"]))

    low, high = max(math.floor(turns(s["beta_fast"])), 0), min(math.ceil(turns(s["beta_slow"])), size - 1)
    ramp = np.clip((np.arange(size // 2) - low) / max(high - low, 0.001), 0, 1)
    return base / s["factor"] * ramp + base * (1 - ramp), 0.1 * math.log(s["factor"]) + 1


def lille(c: Config, w: Draw, ids: Any) -> Array:
    """https://huggingface.co/Nikity/lille-130m-instruct: norms inside the branches' fused projections."""
    d, h, g, eps = c["n_embd"], c["n_head"], c["n_kv_heads"], c["layer_norm_eps"]
    size = d // h
    hidden = 256 * round(8 * d / 3 / 256)
    table = w("transformer.tok_embeddings.weight", c["vocab_size"], d, spread=0.3)
    x = table[ids]
    for i in range(c["n_layer"]):
        at = f"transformer.layers.{i}."
        y = rms(x, w(f"{at}attention.norm.weight", d), eps)
        fused = y @ w(f"{at}attention.qkv_proj.weight", (h + 2 * g) * size, d).T
        q, k, v = np.split(fused, [h * size, (h + g) * size], axis=-1)
        q, k = rope(heads(q, h), c["rope_theta"], pairs=True), rope(heads(k, g), c["rope_theta"], pairs=True)
        x = x + merge(attention(q, k, heads(v, g))) @ w(f"{at}attention.out_proj.weight", d, h * size).T
        y = rms(x, w(f"{at}feed_forward.norm.weight", d), eps)
        x = x + _mlp(c, w, f"{at}feed_forward.", y, hidden, _USUAL)
    return rms(x, w("transformer.norm.weight", d), eps) @ table.T
