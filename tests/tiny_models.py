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
