"""Tokenizers for grammars: bytes only, and a small byte-level BPE with special tokens."""

import pytest
from random_model import ByteTokenizer

from mlx_lm.tokenizer import FastTokenizer, TokenizerWrapper

TEXT = [
    '{"name": "Ada Lovelace", "age": 36, "tags": ["math", "poetry"], "active": true, "score": -1.5e3, "note": null}',
    "The answer is 42. Paris or London? 2026-11-21T10:30:00Z, naïve café 你好 😀",
    "start: expr | term; (1 + 2) * 3 - x / y",
]


@pytest.fixture(scope="session")
def byte_tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture(scope="session")
def tokenizer() -> TokenizerWrapper:
    """A byte-level BPE of 600 tokens with `<end>`, `<turn>`, `<think>` and `</think>`; two ids end generation."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXT * 20, trainer)
    special = ["<end>", "<turn>", "<think>", "</think>"]
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    wrapped = TokenizerWrapper(FastTokenizer(backend, special={"eos_token": "<end>"}))
    wrapped.add_eos_token("<turn>")
    return wrapped
