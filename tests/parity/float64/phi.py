"""Relatives of Phi that transformers does not implement, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from .maths import Array, Draw, attention, causal, gelu_tanh, heads, layer_norm, merge, rope, sigmoid, softmax

__all__ = ["phi3small", "phixtral"]

Config = dict[str, Any]


def _linear(w: Draw, at: str, x: Array, size: int) -> Array:
    return x @ w(f"{at}.weight", size, x.shape[-1]).T + w(f"{at}.bias", size)


def _norm(w: Draw, at: str, x: Array, eps: float) -> Array:
    return layer_norm(x, w(f"{at}.weight", x.shape[-1], center=1.0), w(f"{at}.bias", x.shape[-1], center=0.0), eps)


def phi3small(c: Config, w: Draw, ids: Any) -> Array:
    """https://huggingface.co/microsoft/Phi-3-small-8k-instruct (its blocks: https://arxiv.org/abs/2404.14219, 2)."""
    d, h, g, eps = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["layer_norm_epsilon"]
    size, inner, limit, length = d // h, c["ff_intermediate_size"], c["gegelu_limit"], len(ids)
    scale = c["mup_attn_multiplier"] / size if c["mup_use_scaling"] else size**-0.5
    table = w("model.embed_tokens.weight", c["vocab_size"], d, spread=0.5)
    x = table[ids] * c["mup_embedding_multiplier"]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        y = _norm(w, f"{at}input_layernorm", x, eps)
        fused = _linear(w, f"{at}self_attn.query_key_value", y, (h + 2 * g) * size).reshape(length, g, -1, size)
        q = fused[:, :, :-2].reshape(length, h, size).transpose(1, 0, 2)
        k, v = (np.repeat(fused[:, :, n].transpose(1, 0, 2), h // g, axis=0) for n in (-2, -1))
        freqs = c["rope_embedding_base"] ** (-np.arange(0, size, 2) / size) / c.get("rope_position_scale", 1.0)
        q, k = rope(q, freqs=freqs), rope(k, freqs=freqs)
        seen = np.broadcast_to(causal(length), (h, length, length)).copy()
        if (i + 1) % c["dense_attention_every_n_layers"]:
            stride, block = c["blocksparse_vert_stride"], np.arange(length) // c["blocksparse_block_size"]
            step = 0 if c.get("blocksparse_homo_head_pattern") else max(1, stride // h)
            for head in range(h):
                for a in range(length):
                    for b in range(a + 1):
                        near = block[a] - block[b] < c["blocksparse_num_local_blocks"]
                        seen[head, a, b] = near or (block[b] + head * step + 1) % stride == 0
        out = merge(softmax(np.where(seen, q @ k.swapaxes(1, 2) * scale, -np.inf)) @ v)
        x = x + _linear(w, f"{at}self_attn.dense", out, d)
        y = _linear(w, f"{at}mlp.up_proj", _norm(w, f"{at}post_attention_layernorm", x, eps), 2 * inner)
        gate, up = np.minimum(y[:, ::2], limit), np.clip(y[:, 1::2], -limit, limit)
        x = x + _linear(w, f"{at}mlp.down_proj", gate * sigmoid(1.702 * gate) * (up + 1), d)
    return _norm(w, "model.final_layernorm", x, eps) @ table.T / c["mup_width_multiplier"]


def phixtral(c: Config, w: Draw, ids: Any) -> Array:
    """https://huggingface.co/mlabonne/phixtral-4x2_8: Phi 2 whose feed-forward is chosen for each token."""
    d, h, eps = c["n_embd"], c["n_head"], c["layer_norm_epsilon"]
    x = w("transformer.embd.wte.weight", c["vocab_size"], d, spread=1.0)[ids]
    for i in range(c["n_layer"]):
        at = f"transformer.h.{i}."
        y = _norm(w, f"{at}ln", x, eps)
        q, k, v = (heads(a, h) for a in np.split(_linear(w, f"{at}mixer.Wqkv", y, 3 * d), 3, axis=-1))
        q, k = (rope(a, dims=c["rotary_dim"]) for a in (q, k))
        x = x + _linear(w, f"{at}mixer.out_proj", merge(attention(q, k, v)), d)
        logits = y @ w(f"{at}moe.gate.weight", c["num_local_experts"], d, spread=0.5).T
        best = np.argsort(-logits, axis=-1)[:, : c["num_experts_per_tok"]]
        shares = softmax(np.take_along_axis(logits, best, axis=-1))
        for e in range(c["num_local_experts"]):
            share = np.where(best == e, shares, 0).sum(-1, keepdims=True)
            inner = gelu_tanh(_linear(w, f"{at}moe.mlp.{e}.fc1", y, 4 * d))
            x = x + share * _linear(w, f"{at}moe.mlp.{e}.fc2", inner, d)
    return _linear(w, "lm_head.linear", _norm(w, "lm_head.ln", x, eps), c["vocab_size"])
