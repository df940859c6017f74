"""Speculation against plain decoding: the same tokens and log-probabilities to the last bit, on every kind of state."""

import mlx.core as mx

from mlx_lm.models import build_model

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


def packable(**changes):
    """A model whose keys and values can be packed, and its vocabulary's size."""
    mx.random.seed(0)
    return build_model(PACKABLE | changes), 50
