"""Tokenizers from GGUF metadata."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_texts import TEXTS

from mlx_lm.errors import TokenizerError
from mlx_lm.tokenizer import tokenizer_from_gguf
from mlx_lm.tokenizer.gguf import _merges_into
from mlx_lm.tokenizer.spm import read_spm, tokenizer_from_spm

P = "tokenizer.ggml."


@pytest.fixture
def byte_level_metadata(byte_level: Any) -> dict[str, Any]:
    import json

    model = json.loads(byte_level.to_str())
    vocab = byte_level.get_vocab(with_added_tokens=True)
    tokens = sorted(vocab, key=vocab.__getitem__)
    special = {token["content"]: 3 if token["special"] else 4 for token in model["added_tokens"]}
    return {
        P + "model": "gpt2",
        P + "pre": "gpt-2",
        P + "tokens": tokens,
        P + "token_type": [special.get(token, 1) for token in tokens],
        P + "merges": [" ".join(pair) for pair in model["model"]["merges"]],
        P + "eos_token_id": vocab["<pad>"],
        P + "bos_token_id": vocab["<|im_start|>"],
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }


def test_byte_level(byte_level: Any, byte_level_metadata: dict[str, Any]) -> None:
    tokenizer = tokenizer_from_gguf(byte_level_metadata)
    for text in [*TEXTS, "a<|im_end|> b<｜a b▁c｜>c"]:  # noqa: RUF001
        assert tokenizer.encode(text) == byte_level.encode(text).ids
    assert tokenizer.eos_token_ids == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "x"
    with_bos = tokenizer_from_gguf(byte_level_metadata | {P + "add_bos_token": True})
    assert with_bos.encode("a")[0] == with_bos.bos_token_id
    override = {"add_bos_token": False, "model_max_length": 9, "chat_template": "y"}
    plain = tokenizer_from_gguf(byte_level_metadata | {P + "add_bos_token": True}, tokenizer_config=override)
    assert plain.encode("a") == tokenizer.encode("a")
    assert (plain.model_max_length, plain.chat_template) == (9, "y")


@pytest.mark.parametrize(("name", "kind"), [("bpe_bytes", "llama"), ("bpe_noprefix", "llama"), ("unigram_bytes", "t5")])
def test_sentencepiece(spm_files: dict[str, Path], name: str, kind: str) -> None:
    model = read_spm(spm_files[name])
    metadata = {
        P + "model": kind,
        P + "tokens": list(model.pieces),
        P + "scores": list(model.scores),
        P + "token_type": list(model.types),
        P + "bos_token_id": 1,
        P + "eos_token_id": 2,
        P + "add_space_prefix": model.add_dummy_prefix,
        P + "add_eos_token": False,
    }
    tokenizer = tokenizer_from_gguf(metadata)
    backend = tokenizer_from_spm(spm_files[name], {}).backend
    for text in TEXTS:
        assert tokenizer.encode(text, add_special_tokens=False) == backend.encode(text).ids
    assert (tokenizer.encode("a")[0] == 1) == (kind == "llama")


@pytest.mark.parametrize(
    "change",
    [
        {P + "model": "unknown"},
        {P + "model": "rwkv"},
        {P + "pre": "no-such-pattern"},
        {P + "tokens": None},
        {P + "tokens": []},
        {P + "tokens": "abc"},
        {P + "tokens": [1, 2]},
        {P + "token_type": [1]},
        {P + "token_type": ["x"]},
        {P + "merges": ["no-space"]},
        {P + "merges": ["zzz yyy"]},
        {P + "merges": 5},
        {P + "model": "llama"},
        {"tokenizer.chat_template": 5},
    ],
)
def test_malformed(byte_level_metadata: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError):
        tokenizer_from_gguf(byte_level_metadata | change)


_WORDS = st.text("ab ", max_size=5)


@given(st.sets(_WORDS, max_size=4), st.lists(_WORDS, max_size=8))
def test_merges_into_whole_tokens_are_known_without_joining_every_line(texts: set[str], lines: list[str]) -> None:
    needless = _merges_into(texts)
    assert [line in needless for line in lines] == [line.replace(" ", "", 1) in texts for line in lines]


@pytest.mark.real_model
def test_smollm2() -> None:
    """Ids of the published tokenizer (SmolLM2's digits are single tokens; spaces belong to the next word)."""
    from mlx_lm.hub import gguf, resolve

    path = resolve("smollm2", allow_download=False).gguf
    assert path is not None
    tokenizer = tokenizer_from_gguf(gguf.read(path).metadata)
    assert len(tokenizer) == 49152
    assert tokenizer.encode("Once upon a time") == [6403, 1980, 253, 655]
    assert len(tokenizer.encode("12345")) == 5
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.eos_token_ids) == ("<|im_start|>", "<|im_end|>", {2})
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    for text in TEXTS:
        ids = tokenizer.encode(text)
        detokenizer = tokenizer.detokenizer
        for token in ids:
            detokenizer.add_token(token)
        detokenizer.finalize()
        assert detokenizer.text == tokenizer.decode(ids) == text
