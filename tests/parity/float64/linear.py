"""Families whose attention is mostly a recurrence over one matrix for each head, in float64, a token at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from .experts import _chosen, _experts, _mlp
from .latent import latent_attention, routed
from .maths import Array, Draw, attention, heads, merge, rms, rope, sigmoid, silu, softmax, softplus

__all__ = ["bailing_moe_linear", "bailing_moe_v3", "kimi_k3", "prism"]

Config = dict[str, Any]


def _conv(w: Draw, name: str, x: Array, kernel: int) -> Array:
    """silu of each feature's sum over the last `kernel` tokens."""
    weight = w(name, x.shape[-1], 1, kernel, spread=0.5)[:, 0]
    padded = np.concatenate([np.zeros((kernel - 1, x.shape[-1])), x])
    return silu(sum(padded[i : i + len(x)] * weight[:, i] for i in range(kernel)))


def delta(q: Array, k: Array, v: Array, decay: Array, rate: Array) -> Array:
    """https://arxiv.org/abs/2510.26692: (H, L, D), log decays for each key feature, rates (H, L) -> (H, L, D)."""
    q, k = (a / np.sqrt((a * a).sum(-1, keepdims=True) + 1e-6) for a in (q, k))
    memory, out = np.zeros((len(q), q.shape[-1], v.shape[-1])), np.zeros_like(v)
    for t in range(q.shape[1]):
        memory = memory * np.exp(decay[:, t])[..., None]
        missing = v[:, t] - np.einsum("hkv,hk->hv", memory, k[:, t])
        memory = memory + np.einsum("h,hk,hv->hkv", rate[:, t], k[:, t], missing)
        out[:, t] = np.einsum("hkv,hk->hv", memory, q[:, t]) * q.shape[-1] ** -0.5
    return out


def bailing_moe_linear(c: Config, w: Draw, ids: Any) -> Array:
    """https://arxiv.org/abs/2510.19338; the rates of fading as in the published modeling_bailing_moe_linear_v2."""
    d, h, eps, count = c["hidden_size"], c["num_attention_heads"], c["rms_norm_eps"], c["num_hidden_layers"]
    size, group = d // h, c["layer_group_size"]
    turned = int(size * c["partial_rotary_factor"])
    x = w("model.word_embeddings.weight", c["vocab_size"], d, spread=1.0)[ids]
    for i in range(count):
        at = f"model.layers.{i}."
        full = (i + 1) % group == 0 or i >= count // group * group
        g = c["num_key_value_heads"] if full else h
        y = rms(x, w(f"{at}input_layernorm.weight", d), eps)
        fused = y @ w(f"{at}attention.query_key_value.weight", (h + 2 * g) * size, d).T
        q, k, v = (heads(a, m) for a, m in zip(np.split(fused, [h * size, (h + g) * size], -1), (h, g, g), strict=True))
        if c["use_qk_norm"]:
            q = rms(q, w(f"{at}attention.query_layernorm.weight", size), eps)
            k = rms(k, w(f"{at}attention.key_layernorm.weight", size), eps)
        q, k = (rope(a, c["rope_theta"], turned) for a in (q, k))
        if full:
            out = merge(attention(q, k, v))
        else:
            slopes = 2.0 ** (-8 * (np.arange(h) + 1) / h) * (1 - (i - 1) / (count - 1) + 1e-5)
            apart = np.arange(len(ids))[:, None] - np.arange(len(ids))[None]
            fading = np.where(apart >= 0, np.exp(-slopes[:, None, None] * np.maximum(apart, 0)), 0)
            out = merge((q @ k.swapaxes(1, 2) * size**-0.5 * fading) @ v)
            split = out.reshape(len(ids), c["group_norm_size"], -1)
            normed = rms(split, 1.0, eps).reshape(len(ids), -1) * w(f"{at}attention.g_norm.weight", h * size)
            out = normed * sigmoid(y @ w(f"{at}attention.g_proj.weight", h * size, d).T)
        x = x + out @ w(f"{at}attention.dense.weight", d, h * size).T
        y, at = rms(x, w(f"{at}post_attention_layernorm.weight", d), eps), f"{at}mlp"
        if i < c["first_k_dense_replace"]:
            x = x + _mlp(w, at, y, c["intermediate_size"])
            continue
        scores = sigmoid(y @ w(f"{at}.gate.weight", c["num_experts"], d, spread=0.5).T)
        choice = scores + w(f"{at}.gate.expert_bias", c["num_experts"], spread=0.1)
        weights = _chosen(scores, choice, c["num_experts_per_tok"])
        weights = weights / weights.sum(-1, keepdims=True) * c["routed_scaling_factor"]
        x = x + _experts(w, at, y, weights, c["moe_intermediate_size"])
        x = x + _mlp(w, f"{at}.shared_experts", y, c["moe_intermediate_size"] * c["num_shared_experts"])
    return rms(x, w("model.norm.weight", d), eps) @ w("lm_head.weight", c["vocab_size"], d).T


def bailing_moe_v3(c: Config, w: Draw, ids: Any) -> Array:
    """The published modeling_bailing_moe_v3 (https://huggingface.co/inclusionAI)."""
    d, h, eps, size = c["hidden_size"], c["num_attention_heads"], c["rms_norm_eps"], c["head_dim"]
    count, group = c["num_hidden_layers"], c["layer_group_size"]
    x = w("model.word_embeddings.weight", c["vocab_size"], d, spread=1.0)[ids]
    for i in range(count):
        at = f"model.layers.{i}."
        y = rms(x, w(f"{at}input_layernorm.weight", d), eps)
        at += "attention"
        if (i + 1) % group == 0 or i >= count // group * group:
            out = latent_attention(c, w, at, y)
            gate = sigmoid(y @ w(f"{at}.g_proj.weight", h, d, spread=0.5).T).T[..., None]
            x = x + merge(out * gate) @ w(f"{at}.dense.weight", d, h * c["v_head_dim"]).T
        else:
            q, k, v = (
                heads(_conv(w, f"{at}.{n}_conv1d.weight", y @ w(f"{at}.{n}_proj.weight", h * size, d).T, 4), h)
                for n in "qkv"
            )
            steps = heads(y @ w(f"{at}.f_proj.weight", h * size, d).T + w(f"{at}.dt_bias", h * size), h)
            rate = np.exp(w(f"{at}.A_log", h, center=0.5))[:, None, None]
            decay = c["kda_lower_bound"] * sigmoid(rate * steps)
            out = delta(q, k, v, decay, sigmoid(y @ w(f"{at}.b_proj.weight", h, d).T).T)
            out = rms(out, w(f"{at}.o_norm.weight", size), eps)
            out = out * sigmoid(heads(y @ w(f"{at}.g_proj.weight", h * size, d).T, h))
            x = x + merge(out) @ w(f"{at}.o_proj.weight", d, h * size).T
        at = f"model.layers.{i}."
        y, at = rms(x, w(f"{at}post_attention_layernorm.weight", d), eps), f"{at}mlp"
        if i < c["first_k_dense_replace"]:
            x = x + _mlp(w, at, y, c["intermediate_size"])
            continue
        sizes = c["num_experts"], c["num_experts_per_tok"], c["n_group"], c["topk_group"]
        weights = routed(w, f"{at}.gate", y, *sizes) * c["routed_scaling_factor"]
        x = x + _experts(w, at, y, weights, c["moe_intermediate_size"])
        shared = c["moe_shared_expert_intermediate_size"] * c["num_shared_experts"]
        x = x + _mlp(w, f"{at}.shared_experts", y, shared)
    return rms(x, w("model.norm.weight", d), eps) @ w("lm_head.weight", c["vocab_size"], d).T


def kimi_k3(c: Config, w: Draw, ids: Any) -> Array:
    """https://huggingface.co/moonshotai/Kimi-K3, report: SiTU-GLU (eq. 12), attention over depth (eq. 8 to 10)."""
    c = c["text_config"]
    d, eps, delta_options = c["hidden_size"], c["rms_norm_eps"], c["linear_attn_config"]
    b1, b2, narrow = c["activation_situ_beta"], c["activation_situ_linear_beta"], c["routed_expert_hidden_size"]
    dh, size, top = delta_options["num_heads"], delta_options["head_dim"], "language_model.model."

    def glu(
        at: str, x: Array, inner: int, names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    ) -> Array:
        gate, up = (x @ w(f"{at}.{n}.weight", inner, x.shape[-1]).T for n in names[:2])
        y = b1 * np.tanh(gate / b1) * sigmoid(gate) * b2 * np.tanh(up / b2)
        return y @ w(f"{at}.{names[2]}.weight", x.shape[-1], inner).T

    def depth(at: str, stream: Array, bank: list[Array]) -> Array:
        norm, proj = w(f"{at}_norm.weight", d), w(f"{at}_proj.weight", 1, d, spread=0.5)[0]
        if not bank:
            return stream
        values = np.stack([*bank, stream], axis=1)
        return (softmax(rms(values, norm, eps) @ proj)[..., None] * values).sum(1)

    x = w(f"{top}embed_tokens.weight", c["vocab_size"], d, spread=1.0)[ids]
    bank: list[Array] = []
    for i in range(c["num_hidden_layers"]):
        layer = f"{top}layers.{i}."
        at, starts = f"{layer}self_attn", i % c["attn_res_block_size"] == 0
        y = rms(depth(f"{layer}self_attention_res", x, bank), w(f"{layer}input_layernorm.weight", d), eps)
        if i + 1 in delta_options["full_attn_layers"]:
            out = merge(latent_attention(c, w, at, y, turned=False))
        else:
            q, k, v = (
                heads(_conv(w, f"{at}.{n}_conv1d.weight", y @ w(f"{at}.{n}_proj.weight", dh * size, d).T, 4), dh)
                for n in "qkv"
            )
            steps = y @ w(f"{at}.f_a_proj.weight", size, d).T @ w(f"{at}.f_b_proj.weight", dh * size, size).T
            steps = heads(steps + w(f"{at}.dt_bias", dh * size), dh)
            rate = np.exp(w(f"{at}.A_log", dh, center=0.5))[:, None, None]
            decay = delta_options["gate_lower_bound"] * sigmoid(rate * steps)
            out = delta(q, k, v, decay, sigmoid(y @ w(f"{at}.b_proj.weight", dh, d).T).T)
            out = merge(rms(out, w(f"{at}.o_norm.weight", size), eps))
        out = out * sigmoid(y @ w(f"{at}.g_proj.weight", out.shape[-1], d).T)
        out = out @ w(f"{at}.o_proj.weight", d, out.shape[-1]).T
        if starts:
            bank.append(x)
        x = out if starts else x + out
        y = rms(depth(f"{layer}mlp_res", x, bank), w(f"{layer}post_attention_layernorm.weight", d), eps)
        if i < c["first_k_dense_replace"]:
            x = x + glu(f"{layer}mlp", y, c["intermediate_size"])
            continue
        at, count, inner = f"{layer}block_sparse_moe", c["num_experts"], c["moe_intermediate_size"]
        scores = sigmoid(y @ w(f"{at}.gate.weight", count, d, spread=0.5).T)
        choice = scores + w(f"{at}.gate.e_score_correction_bias", count, spread=0.1)
        weights = _chosen(scores, choice, c["num_experts_per_token"])
        weights = weights / weights.sum(-1, keepdims=True) * c["routed_scaling_factor"]
        small = y @ w(f"{at}.routed_expert_down_proj.weight", narrow, d).T
        mixed = sum(
            weights[:, e : e + 1] * glu(f"{at}.experts.{e}", small, inner, ("w1", "w3", "w2")) for e in range(count)
        )
        mixed = rms(np.asarray(mixed), w(f"{at}.routed_expert_norm.weight", narrow), eps)
        x = x + mixed @ w(f"{at}.routed_expert_up_proj.weight", d, narrow).T
        x = x + glu(f"{at}.shared_experts", y, inner * c["num_shared_experts"])
    x = rms(depth(f"{top}output_attn_res", x, bank), w(f"{top}norm.weight", d), eps)
    return x @ w("language_model.lm_head.weight", c["vocab_size"], d).T


def _hadamard(size: int) -> Array:
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.kron(np.array([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix / np.sqrt(size)


def prism(c: Config, w: Draw, ids: Any) -> Array:
    """Qwen 3.5 (https://huggingface.co/Qwen) in Prism's basis: weights are kept as W * signs * Hadamard."""
    blocks, c = {m["path"]: m["block"] for m in c["modules"]}, c["text_config"]
    d, eps, size = c["hidden_size"], c["rms_norm_eps"], c["head_dim"]
    h, g = c["num_attention_heads"], c["num_key_value_heads"]
    names = ("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim")
    kh, vh, kd, vd = (c[n] for n in names)
    top, kernel, turn = "language_model.", c["linear_conv_kernel_dim"], c["rope_parameters"]

    def signs(path: str, width: int) -> Array:
        raw = np.random.default_rng(len(path) + width).standard_normal(width)
        w.tensors[f"{top}{path}.signs"] = np.where(raw > 0, 1, -1).astype(np.float32)
        return w(f"{top}{path}.signs", width)

    def turned(path: str, x: Array, back: bool = False) -> Array:
        if path not in blocks:
            return x
        s, block = signs(path, x.shape[-1]), blocks[path]
        if not block:
            return x
        y = ((x if back else x * s).reshape(len(x), -1, block) @ _hadamard(block)).reshape(x.shape)
        return y * s if back else y

    def linear(path: str, x: Array, out: int) -> Array:
        return turned(path, x) @ w(f"{top}{path}.weight", out, x.shape[-1]).T

    def norm(path: str, x: Array) -> Array:
        return rms(x, w(f"{top}{path}.weight", x.shape[-1], center=1.0), eps)

    x = turned("model.embed_tokens", w(f"{top}model.embed_tokens.weight", c["vocab_size"], d, spread=1.0)[ids], True)
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        y = norm(f"{at}input_layernorm", x)
        if (i + 1) % c["full_attention_interval"] == 0:
            q = linear(f"{at}self_attn.q_proj", y, 2 * h * size).reshape(len(ids), h, 2, size)
            gate, q = q[:, :, 1].reshape(len(ids), -1), q[:, :, 0].transpose(1, 0, 2)
            k, v = (heads(linear(f"{at}self_attn.{n}_proj", y, g * size), g) for n in "kv")
            q, k = norm(f"{at}self_attn.q_norm", q), norm(f"{at}self_attn.k_norm", k)
            q, k = (rope(a, turn["rope_theta"], int(size * turn["partial_rotary_factor"])) for a in (q, k))
            out = linear(f"{at}self_attn.o_proj", merge(attention(q, k, v)) * sigmoid(gate), d)
        else:
            at += "linear_attn."
            mixed = linear(f"{at}in_proj_qkv", y, 2 * kh * kd + vh * vd)
            weight = w(f"{top}{at}conv1d.weight", mixed.shape[-1], kernel, 1, spread=0.5)[..., 0]
            padded = np.concatenate([np.zeros((kernel - 1, mixed.shape[-1])), mixed])
            mixed = silu(np.stack([(padded[t : t + kernel].T * weight).sum(-1) for t in range(len(ids))]))
            q, k, v = np.split(mixed, [kh * kd, 2 * kh * kd], axis=-1)
            q, k = (np.repeat(heads(a, kh), vh // kh, axis=0) for a in (q, k))
            steps = softplus(linear(f"{at}in_proj_a", y, vh) + w(f"{top}{at}dt_bias", vh))
            decay = -np.exp(w(f"{top}{at}A_log", vh)) * steps
            rate = sigmoid(linear(f"{at}in_proj_b", y, vh))
            out = delta(q, k, heads(v, vh), decay.T[..., None], rate.T)
            out = norm(f"{at}norm", out) * silu(heads(linear(f"{at}in_proj_z", y, vh * vd), vh))
            out, at = linear(f"{at}out_proj", merge(out), d), f"model.layers.{i}."
        x = x + out
        y = norm(f"{at}post_attention_layernorm", x)
        gate, up = (linear(f"{at}mlp.{n}_proj", y, c["intermediate_size"]) for n in ("gate", "up"))
        x = x + linear(f"{at}mlp.down_proj", silu(gate) * up, d)
    return linear("lm_head", norm("model.norm", x), c["vocab_size"])
