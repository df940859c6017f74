"""Tiny tokenizers of every kind, trained on the spot: no vocabulary is kept in the repository."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest

CORPUS = [
    "The quick brown fox jumps over the lazy dog. Then the dog sleeps, and the fox runs away.",
    "def add(first, second):\n    return first + second\n\n\nprint(add(1, 2345))",
    "Ünïcödé: naïve café, straße, 你好世界 こんにちは 안녕하세요, emoji 😀 👨‍👩‍👧 and so on",
    "aaa aaaa aaaaaa banana bananas ananas abababab    lots   of    spaces",
] * 8


@pytest.fixture(scope="session")
def byte_level() -> Any:
    """A byte-level BPE with added tokens, one of them outside the byte alphabet."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    special = ["<|im_start|>", "<|im_end|>", "<pad>", "<think>", "</think>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken("<｜a b▁c｜>", normalized=False)])  # noqa: RUF001
    return tokenizer


@pytest.fixture(scope="session")
def spm_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """SentencePiece models: both kinds, with and without byte fallback, normalization and dummy prefix."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("spm")
    plain = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    variants: dict[str, dict[str, Any]] = {
        "bpe_bytes": {"model_type": "bpe", "byte_fallback": True, **plain, "vocab_size": 460},
        "bpe_noprefix": {
            "model_type": "bpe",
            "byte_fallback": True,
            "add_dummy_prefix": False,
            **plain,
            "vocab_size": 460,
        },
        "bpe_unknown": {"model_type": "bpe", "vocab_size": 160},
        "unigram": {"model_type": "unigram", "vocab_size": 160},
        "unigram_bytes": {"model_type": "unigram", "byte_fallback": True, **plain, "vocab_size": 420},
        "unigram_symbols": {"model_type": "unigram", "vocab_size": 165, "user_defined_symbols": ["<sep>", "<x>"]},
    }
    files = {}
    for name, options in variants.items():
        buffer = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([line for text in CORPUS for line in text.split("\n")]),
            model_writer=buffer,
            hard_vocab_limit=False,
            character_coverage=0.98,
            minloglevel=2,
            **options,
        )
        files[name] = folder / f"{name}.model"
        files[name].write_bytes(buffer.getvalue())
    return files


@pytest.fixture(scope="session")
def ranks(byte_level: Any) -> dict[bytes, int]:
    """A tiktoken vocabulary: bytes first, then the merges of the byte-level tokenizer."""
    from mlx_lm.tokenizer.detokenize import byte_alphabet

    byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
    model = json.loads(byte_level.to_str())["model"]
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [bytes(byte_of[c] for c in a + b) for a, b in model["merges"]]
    return {token: rank for rank, token in enumerate(dict.fromkeys(tokens))}


@pytest.fixture
def tiktoken_file(ranks: dict[bytes, int], tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()))
    return path


@pytest.fixture
def folder(byte_level: Any, tmp_path: Path) -> Path:
    """A model folder with tokenizer.json, tokenizer_config.json, config.json and a chat template."""
    byte_level.save(str(tmp_path / "tokenizer.json"))
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking %}<think>{% endif %}{% endif %}"
    )
    config = {
        "eos_token": "<|im_end|>",
        "pad_token": {"content": "<pad>", "__type": "AddedToken"},
        "model_max_length": 16,
        "chat_template": template,
        "additional_special_tokens": ["<|im_start|>"],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    return tmp_path
