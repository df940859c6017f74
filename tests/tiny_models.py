"""Tiny models of unlike states from the parity references, and the plain way to generate with them."""

import random

import mlx.core as mx
from references import load_reference

from mlx_lm.models import build_model

MODELS = {
    "full": "llama/base",
    "window": "mistral/window",
    "recurrent": "mamba2/base",
    "hybrid": "lfm2/base",
    "latent": "deepseek_v2/lite",
}
# Keys and values of 32, which can be packed.
PACKABLE = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
}
# Gated delta layers, experts, and room for a next-token head.
WITH_HEAD = {
    "model_type": "qwen3_next",
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 32,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "full_attention_interval": 2,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}


def tiny(kind: str, **config):
    """(model, vocabulary size) with full, window, recurrent, hybrid or latent states."""
    reference = load_reference(MODELS[kind])
    return build_model(reference.config("v5") | config, reference.weights), reference.logits.shape[-1]


def plain_greedy(model, prompt, count):
    """`count` greedy tokens, each computed from the whole history, without states."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(mx.argmax(model(mx.array([ids]))[0, -1]).item()))
    return ids[len(prompt) :]


def prompts(vocab, lengths, seed=0):
    """Random prompts of these lengths."""
    chance = random.Random(seed)
    return [[chance.randrange(vocab) for _ in range(n)] for n in lengths]
