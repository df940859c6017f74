"""More dense decoders that transformers does not implement, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .maths import Array, Draw, attention, gated, gelu, gelu_tanh, heads, merge, rms, rope, sigmoid

__all__ = ["afm7", "baichuan_m1", "gear", "nemotron_nas", "openelm", "plamo3", "spark2_5", "talkie"]

Config = dict[str, Any]


def openelm(c: Config, w: Draw, ids: Any) -> Array:
    """https://arxiv.org/abs/2404.14619: each layer has its own numbers of heads and its own width."""
    d, size, eps = c["model_dim"], c["head_dim"], c.get("rms_norm_eps", 1e-6)
    table = w("transformer.token_embeddings.weight", c["vocab_size"], d, spread=0.3)
    x = table[ids]
    for i in range(c["num_transformer_layers"]):
        at, h, g = f"transformer.layers.{i}.", c["num_query_heads"][i], c["num_kv_heads"][i]
        y = rms(x, w(f"{at}attn_norm.weight", d), eps)
        fused = y @ w(f"{at}attn.qkv_proj.weight", (h + 2 * g) * size, d).T
        q, k, v = (heads(a, m) for a, m in zip(np.split(fused, [h * size, (h + g) * size], -1), (h, g, g), strict=True))
        q, k = rms(q, w(f"{at}attn.q_norm.weight", size), eps), rms(k, w(f"{at}attn.k_norm.weight", size), eps)
        out = merge(attention(rope(q, c["rope_freq_constant"]), rope(k, c["rope_freq_constant"]), v))
        x = x + out @ w(f"{at}attn.out_proj.weight", d, h * size).T
        y = rms(x, w(f"{at}ffn_norm.weight", d), eps)
        by = c["ffn_dim_divisor"]
        wide = max(by, int(c["ffn_multipliers"][i] * d + by / 2) // by * by)
        gate, up = np.split(w(f"{at}ffn.proj_1.weight", 2 * wide, d), 2)
        x = x + gated(y, gate, up, w(f"{at}ffn.proj_2.weight", d, wide))
    return rms(x, w("transformer.norm.weight", d), eps) @ table.T


def baichuan_m1(c: Config, w: Draw, ids: Any) -> Array:
    """https://arxiv.org/abs/2502.12671: keys and values are mixed with those of the token before, head by head."""
    d, eps = c["hidden_size"], c["rms_norm_eps"]
    x = w("model.embed_tokens.weight", c["vocab_size"], d, spread=1.0)[ids]
    for i in range(c["num_hidden_layers"]):
        at, slides = f"model.layers.{i}.", i in c["sliding_window_layers"]
        h, g = c["num_attention_heads"], c["num_key_value_heads"]
        if slides:
            h, g = c.get("num_swa_attention_heads") or h, c.get("num_swa_key_value_heads") or g
        size = d // h
        y = rms(x, w(f"{at}input_layernorm.weight", d), eps)
        fused = y @ w(f"{at}self_attn.W_pack.weight", (h + 2 * g) * size, d).T
        q, k, v = (heads(a, m) for a, m in zip(np.split(fused, [h * size, (h + g) * size], -1), (h, g, g), strict=True))
        k, v = (
            np.concatenate([np.zeros_like(a[:, :1]), a[:, :-1]], axis=1) * m[..., 0] + a * m[..., 1]
            for a, n in ((k, "k"), (v, "v"))
            for m in [w(f"{at}self_attn.conv_{n}", 1, 1, g, 1, 2, spread=0.5)[0, 0][:, :, None]]
        )
        window = c["sliding_window"] if slides else None
        out = merge(attention(rope(q, c["rope_theta"]), rope(k, c["rope_theta"]), v, window=window))
        x = x + out @ w(f"{at}self_attn.o_proj.weight", d, h * size).T
        y = rms(x, w(f"{at}post_attention_layernorm.weight", d), eps)
        shapes = (("gate_proj", c["intermediate_size"], d), ("up_proj", c["intermediate_size"], d))
        gate, up = (w(f"{at}mlp.{n}.weight", *shape) for n, *shape in shapes)
        x = x + gated(y, gate, up, w(f"{at}mlp.down_proj.weight", d, c["intermediate_size"]))
    head = w("lm_head.weight", c["vocab_size"], d, spread=0.3)
    return rms(x, w("model.norm.weight", d), eps) @ (head / np.linalg.norm(head, axis=-1, keepdims=True)).T


def plamo3(c: Config, w: Draw, ids: Any) -> Array:
    """https://huggingface.co/pfnet/plamo-3-nict-8b-base: windows with a rope of their own, norms around each branch."""
    d, h, g, size, eps = (
        c[n] for n in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps")
    )
    table = w("model.embed_tokens.weight", c["vocab_size"], d, spread=0.3)
    x = table[ids]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.layers.{i}."

        def norm(name: str, x: Array, offset: float, at: str = at) -> Array:
            return rms(x, w(f"{at}{name}.weight", x.shape[-1], center=0.0) + offset, eps)

        slides = (i + 1) % c["sliding_window_pattern"] != 0
        theta = c["rope_local_theta"] if slides else c["rope_theta"]
        y = norm("pre_mixer_norm", x, 1.0)
        fused = y @ w(f"{at}mixer.qkv_proj.weight", (h + 2 * g) * size, d).T
        q, k, v = (heads(a, m) for a, m in zip(np.split(fused, [h * size, (h + g) * size], -1), (h, g, g), strict=True))
        q, k = rope(norm("mixer.q_norm", q, 1.0), theta), rope(norm("mixer.k_norm", k, 1.0), theta)
        out = merge(attention(q, k, v, window=c["window_size"] + 1 if slides else None))
        x = x + norm("post_mixer_norm", out @ w(f"{at}mixer.o_proj.weight", d, h * size).T, 1 / 5)
        wide = c["intermediate_size"]
        gate, up = np.split(w(f"{at}mlp.gate_up_proj.weight", 2 * wide, d), 2)
        y = gated(norm("pre_mlp_norm", x, 1.0), gate, up, w(f"{at}mlp.down_proj.weight", d, wide))
        x = x + norm("post_mlp_norm", y, 5**-1.5)
    return rms(x, w("model.norm.weight", d, center=0.0) + 1, eps) @ table.T


def nemotron_nas(c: Config, w: Draw, ids: Any) -> Array:
    """https://arxiv.org/abs/2411.19146: Llama, but each part of a layer may be narrower, one matrix, or missing."""
    d, h, eps = c["hidden_size"], c["num_attention_heads"], c["rms_norm_eps"]
    size = d // h
    x = w("model.embed_tokens.weight", c["vocab_size"], d, spread=1.0)[ids]
    for i, block in enumerate(c["block_configs"]):
        at, part = f"model.layers.{i}.", block["attention"]
        if not part["no_op"]:
            y = rms(x, w(f"{at}input_layernorm.weight", d), eps)
            if part["replace_with_linear"]:
                x = x + y @ w(f"{at}self_attn.linear_attn.weight", d, d).T
            else:
                g = h // part["n_heads_in_group"]
                q, k, v = (
                    heads(y @ w(f"{at}self_attn.{n}_proj.weight", m * size, d).T, m)
                    for n, m in (("q", h), ("k", g), ("v", g))
                )
                out = merge(attention(rope(q, c["rope_theta"]), rope(k, c["rope_theta"]), v))
                x = x + out @ w(f"{at}self_attn.o_proj.weight", d, d).T
        part = block["ffn"]
        if not part["no_op"]:
            y = rms(x, w(f"{at}post_attention_layernorm.weight", d), eps)
            if part["replace_with_linear"]:
                x = x + y @ w(f"{at}mlp.linear_mlp.weight", d, d).T
            else:
                wide = 256 * math.ceil(int(2 * part["ffn_mult"] * d / 3) / 256)
                gate, up = (w(f"{at}mlp.{n}_proj.weight", wide, d) for n in ("gate", "up"))
                x = x + gated(y, gate, up, w(f"{at}mlp.down_proj.weight", d, wide))
    return rms(x, w("model.norm.weight", d), eps) @ w("lm_head.weight", c["vocab_size"], d).T


def spark2_5(c: Config, w: Draw, ids: Any) -> Array:
    """https://huggingface.co/XHToken/Spark-X2.5-4B: each head's output has a gate; ropes by the layer's kind."""
    d, h, g, size = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    eps, inner = c["rms_norm_eps"], c["intermediate_size"]
    table = w("model.embedding.weight", c["vocab_size"], d, spread=0.3)
    x = table[ids]
    for i, kind in enumerate(c["layer_types"]):
        at, turn = f"model.layers.{i}.", c["rope_parameters"][kind]
        dims = int(size * turn.get("partial_rotary_factor", 1.0))
        y = rms(x, w(f"{at}input_layernorm.weight", d), eps)
        fused = y @ w(f"{at}self_attn.q_k_v_proj.weight", (h + 2 * g) * size, d).T
        q, k, v = (heads(a, m) for a, m in zip(np.split(fused, [h * size, (h + g) * size], -1), (h, g, g), strict=True))
        q, k = (rope(a, turn["rope_theta"], dims) for a in (q, k))
        out = attention(q, k, v, window=c["sliding_window"] if kind == "sliding_attention" else None)
        out = out * sigmoid(y @ w(f"{at}self_attn.g_proj.weight", h, d, spread=0.5).T).T[..., None]
        x = x + merge(out) @ w(f"{at}self_attn.out_proj.weight", d, h * size).T
        y = rms(x, w(f"{at}post_attention_layernorm.weight", d), eps)
        gate, up = (w(f"{at}mlp.{n}_proj.weight", inner, d) for n in ("gate", "up"))
        x = x + gated(y, gate, up, w(f"{at}mlp.down_proj.weight", d, inner), gelu)
    return rms(x, w("model.norm.weight", d), eps) @ table.T


def talkie(c: Config, w: Draw, ids: Any) -> Array:
    """https://huggingface.co/lewtun/talkie-1930-13b-it-hf: norms without weights; heads turn backwards."""
    d, h, size, inner = c["hidden_size"], c["num_attention_heads"], c["head_dim"], c["intermediate_size"]

    def norm(a: Array) -> Array:
        return rms(a, 1.0, float(np.finfo(np.float32).eps))

    back = -(c["rope_theta"] ** (-np.arange(0, size, 2) / size))
    first = x = norm(w("model.embed.weight", c["vocab_size"], d, spread=1.0)[ids])
    for i in range(c["num_hidden_layers"]):
        at = f"model.blocks.{i}."
        q, k, v = (heads(norm(x) @ w(f"{at}attn.attn_{n}.weight", d, d).T, h) for n in ("query", "key", "value"))
        q, k = norm(rope(q, freqs=back)), norm(rope(k, freqs=back))
        q = q * w(f"{at}attn.head_gain.head_g", h, center=1.5)[:, None, None]
        out = merge(attention(q, k, v)) @ w(f"{at}attn.attn_resid.weight", d, d).T
        x = x + out * w(f"{at}attn_gain.a_g", 1, center=1.0)
        gate, up = (w(f"{at}mlp.mlp_{n}.weight", inner, d) for n in ("gate", "linear"))
        x = x + gated(norm(x), gate, up, w(f"{at}mlp.mlp_resid.weight", d, inner)) * w(
            f"{at}mlp_gain.a_g", 1, center=1.0
        )
        x = x + first * w(f"{at}embed_skip.a_g", 1, center=0.5)
    return norm(x) @ w("lm_head", c["vocab_size"], d).T * w("lm_head_gain.w_g", 1, center=1.5)


def gear(c: Config, w: Draw, ids: Any) -> Array:
    """llama.cpp's graph of GearForCausalLM: Gemma 3, in some layers with convolutions instead of attention."""
    d, h, g, size = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    inner, kernel = c["intermediate_size"], c["conv_L_cache"]

    def norm(name: str, a: Array) -> Array:
        return rms(a, 1 + w(name, a.shape[-1], center=0.0), c["rms_norm_eps"])

    def conv(name: str, a: Array) -> Array:
        weight = w(name, g * size, 1, kernel, spread=0.5)[:, 0]
        padded = np.concatenate([np.zeros((kernel - 1, g * size)), a])
        return np.stack([(padded[t : t + kernel].T * weight).sum(-1) for t in range(len(a))])

    table = w("model.embed_tokens.weight", c["vocab_size"], d, spread=0.3)
    x = table[ids] * d**0.5
    for i, kind in enumerate(c["layer_types"]):
        at, local = f"model.layers.{i}.", kind == "conv_mixer"
        y, mix = norm(f"{at}input_layernorm.weight", x), f"{at}local_mixer." if local else f"{at}self_attn."
        q, k, v = (heads(y @ w(f"{mix}{n}_proj.weight", m * size, d).T, m) for n, m in (("q", h), ("k", g), ("v", g)))
        q, k = norm(f"{mix}q_norm.weight", q), norm(f"{mix}k_norm.weight", k)
        if local:
            k, v = conv(f"{mix}key_conv.weight", merge(k)), conv(f"{mix}value_conv.weight", merge(v))
            k, v = (np.repeat(heads(a, g), h // g, axis=0) for a in (k, v))
            out = sigmoid(q * k) * v
        else:
            slides = kind == "sliding_attention"
            theta = c["rope_local_base_freq"] if slides else c["rope_theta"]
            out = attention(rope(q, theta), rope(k, theta), v, window=c["sliding_window"] if slides else None)
        out = merge(out) @ w(f"{mix}o_proj.weight", d, h * size).T
        x = x + norm(f"{at}post_attention_layernorm.weight", out)
        y = norm(f"{at}pre_feedforward_layernorm.weight", x)
        gate, up = (w(f"{at}mlp.{n}_proj.weight", inner, d) for n in ("gate", "up"))
        y = gated(y, gate, up, w(f"{at}mlp.down_proj.weight", d, inner), gelu_tanh)
        x = x + norm(f"{at}post_feedforward_layernorm.weight", y)
    return norm("model.norm.weight", x) @ table.T


def afm7(c: Config, w: Draw, ids: Any) -> Array:
    """Apple's tamm, AFMTextV7: the last layers share keys and values, which are whole multiples of a scale."""
    d, h, g, eps = c["hidden_dim"], c["num_heads"], c["num_kv_heads"], c["rms_norm_eps"]
    size, inner, first = d // h, round(d * c["hidden_dim_scale_factor"]), c["num_layers"] - c["num_kv_reuse_layers"]
    table = w("model.embedding.weight", c["vocab_size"], d, spread=0.3)
    x, k, v = table[ids], np.zeros(0), np.zeros(0)
    for i in range(c["num_layers"]):
        at = f"model.layers.{i}." if i < first else f"model.kv_reuse_layers.{i - first}."
        y = rms(x, w(f"{at}input_layernorm.weight", d), eps)
        if i < first:
            fused = y @ w(f"{at}self_attn.qkv_proj.weight", (h + 2 * g) * size, d).T
            q, k, v = np.split(fused, [h * size, (h + g) * size], -1)
            q, k, v = heads(q, h), heads(k, g), heads(v, g)
            k = rms(rope(k, c["rope_theta"], pairs=True), w(f"{at}self_attn.k_norm.weight", size), eps)
            k, v = (
                np.clip(np.round(a / s), -128, 127) * s
                for a, s in (
                    (n, w(f"{at}self_attn.quant_{kind}_scale", spread=0.001, center=0.05))
                    for n, kind in ((k, "key"), (v, "value"))
                )
            )
        else:
            q = heads(y @ w(f"{at}self_attn.q_proj.weight", d, d).T, h)
        q = rms(rope(q, c["rope_theta"], pairs=True), w(f"{at}self_attn.q_norm.weight", size), eps)
        x = x + merge(attention(q, k, v)) @ w(f"{at}self_attn.out_proj.weight", d, d).T
        y = rms(x, w(f"{at}post_attention_layernorm.weight", d), eps)
        gate, up = (w(f"{at}mlp.{n}_proj.weight", inner, d) for n in ("gate", "up"))
        x = x + gated(y, gate, up, w(f"{at}mlp.down_proj.weight", d, inner))
    return rms(x, w("model.output_norm.weight", d), eps) @ table.T
