"""Decoders whose layers run several times, in float64."""

from __future__ import annotations

from typing import Any

from .maths import Array, Draw, attention, gated, heads, merge, rms, rope, sigmoid

__all__ = ["iquestloopcoder", "nanbeige"]

Config = dict[str, Any]


def _qkv(c: Config, w: Draw, at: str, y: Array) -> tuple[Array, Array, Array]:
    d, h, g = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    size = c.get("head_dim") or d // h
    q, k, v = (heads(y @ w(f"{at}{n}_proj.weight", m * size, d).T, m) for n, m in (("q", h), ("k", g), ("v", g)))
    return rope(q, c["rope_theta"]), rope(k, c["rope_theta"]), v


def _mlp(c: Config, w: Draw, at: str, y: Array) -> Array:
    d, size = c["hidden_size"], c["intermediate_size"]
    gate, up = (w(f"{at}{n}_proj.weight", size, d) for n in ("gate", "up"))
    return gated(y, gate, up, w(f"{at}down_proj.weight", d, size))


def nanbeige(c: Config, w: Draw, ids: Any) -> Array:
    """https://arxiv.org/abs/2607.22083."""
    d, eps, loops = c["hidden_size"], c["rms_norm_eps"], c["num_loops"]
    x = w("model.embed_tokens.weight", c["vocab_size"], d, spread=1.0)[ids]
    for loop in range(loops):
        for i in range(c["num_hidden_layers"]):
            at = f"model.layers.{i}."
            q, k, v = _qkv(c, w, f"{at}self_attn.", rms(x, w(f"{at}input_layernorm.weight", d), eps))
            out = merge(attention(q, k, v))
            x = x + out @ w(f"{at}self_attn.o_proj.weight", d, out.shape[-1]).T
            x = x + _mlp(c, w, f"{at}mlp.", rms(x, w(f"{at}post_attention_layernorm.weight", d), eps))
        if loop == loops - 1 or not c.get("skip_loop_final_norm"):
            x = rms(x, w("model.norm.weight", d), eps)
    return x @ w("lm_head.weight", c["vocab_size"], d).T


def iquestloopcoder(c: Config, w: Draw, ids: Any) -> Array:
    """https://huggingface.co/IQuestLab/IQuest-Coder-V1-40B-Loop-Instruct.

    From the second loop on, a head weighs the first loop's keys and values, all of them, against its own near ones.
    """
    d, h, eps = c["hidden_size"], c["num_attention_heads"], c["rms_norm_eps"]
    x = w("model.embed_tokens.weight", c["vocab_size"], d, spread=1.0)[ids]
    first = {}
    for loop in range(c["loop_num"]):
        for i in range(c["num_hidden_layers"]):
            at = f"model.layers.{i}."
            q, k, v = _qkv(c, w, f"{at}self_attn.", rms(x, w(f"{at}input_layernorm.weight", d), eps))
            gate = w(f"model.gate_projections.{i}.weight", h, q.shape[-1], spread=0.5)
            bias = w(f"model.gate_projections.{i}.bias", h)
            if loop == 0:
                first[i] = k, v
                out = attention(q, k, v)
            else:
                share = sigmoid((q * gate[:, None]).sum(-1, keepdims=True) + bias[:, None, None])
                near = attention(q, k, v, window=c["loop_window_size"])
                out = share * attention(q, *first[i]) + (1 - share) * near
            x = x + merge(out) @ w(f"{at}self_attn.o_proj.weight", d, h * q.shape[-1]).T
            x = x + _mlp(c, w, f"{at}mlp.", rms(x, w(f"{at}post_attention_layernorm.weight", d), eps))
    return rms(x, w("model.norm.weight", d), eps) @ w("lm_head.weight", c["vocab_size"], d).T
