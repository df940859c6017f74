"""Tiny models of unlike states, and a tokenizer whose tokens are letters."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
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


@pytest.fixture(params=list(MODELS))
def any_model(request):
    return tiny(request.param)


@pytest.fixture
def full_model():
    return tiny("full")
