"""Converted SentencePiece models give what the sentencepiece package gives."""

from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_texts import TEXTS

from mlx_lm.errors import TokenizerError
from mlx_lm.tokenizer.load import load_tokenizer
from mlx_lm.tokenizer.spm import read_spm, spm_merges, tokenizer_from_spm

KINDS = ["bpe_bytes", "bpe_noprefix", "bpe_unknown", "unigram", "unigram_bytes", "unigram_symbols"]
LETTERS = st.text("ab an the dog你é😀ж\n\t.12", max_size=40)


@pytest.fixture(scope="module")
def pairs(spm_files: dict[str, Path]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (tokenizer_from_spm(path, {}).backend, sentencepiece.SentencePieceProcessor(model_file=str(path)))
        for name, path in spm_files.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_texts(pairs: dict[str, tuple[Any, Any]], kind: str) -> None:
    ours, oracle = pairs[kind]
    for text in TEXTS:
        assert ours.encode(text).ids == oracle.encode(text), text


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=LETTERS)
def test_any_text(pairs: dict[str, tuple[Any, Any]], kind: str, text: str) -> None:
    ours, oracle = pairs[kind]
    ids = oracle.encode(text)
    assert ours.encode(text).ids == ids
    if "bytes" in kind:
        assert ours.decode(ids) == oracle.decode(ids)


def test_user_defined_symbols_are_whole(pairs: dict[str, tuple[Any, Any]]) -> None:
    ours, oracle = pairs["unigram_symbols"]
    assert ours.token_to_id("<sep>") == oracle.piece_to_id("<sep>")
    assert ours.token_to_id("<sep>") in ours.encode("dog<sep>the").ids


def test_folder_with_only_a_model(spm_files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(spm_files["bpe_bytes"].read_bytes())
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")
    assert tokenizer.encode("the dog")[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_ids == {tokenizer.eos_token_id}
    without = load_tokenizer(tmp_path, tokenizer_config={"add_bos_token": False})
    assert without.encode("the dog") == tokenizer.encode("the dog", add_special_tokens=False)
    assert tokenizer.decode(tokenizer.encode("the  dog 😀"), skip_special_tokens=True) == "the  dog 😀"


def test_legacy_false_prefixes_only_the_start(spm_files: dict[str, Path]) -> None:
    old = tokenizer_from_spm(spm_files["bpe_bytes"], {}).backend
    new = tokenizer_from_spm(spm_files["bpe_bytes"], {"legacy": False}).backend
    assert old.encode("the</s>dog").tokens != new.encode("the</s>dog").tokens
    assert old.encode("the dog").ids == new.encode("the dog").ids


def test_merges_prefer_the_left() -> None:
    """`aba` is `ab`+`a` or `a`+`ba`: in `ab a ba` the left pair has to win."""
    merges = spm_merges(["a", "b", "ab", "ba", "aba"], [0, 0, -1, -2, -3], [True] * 5)
    assert merges == [("a", "b"), ("b", "a"), ("ab", "a"), ("a", "ba")]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_corrupted_models(spm_files: dict[str, Path], tmp_path_factory: Any, data: st.DataObject) -> None:
    raw = bytearray(spm_files["bpe_unknown"].read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, min(len(raw) - 1, 3000)))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "corrupt.model"
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        tokenizer_from_spm(path, {}).backend.encode("the dog")
    except TokenizerError as error:
        assert "corrupt.model" in str(error)


def test_unigram_models_without_an_unknown_piece_are_refused(spm_files: dict[str, Path], tmp_path: Path) -> None:
    raw = bytearray(spm_files["bpe_unknown"].read_bytes())
    raw[0] = 14  # what was the first piece, the unknown one, becomes a field that nobody reads
    (tmp_path / "none.model").write_bytes(raw[:244])
    with pytest.raises(TokenizerError, match="unknown"):
        tokenizer_from_spm(tmp_path / "none.model", {})


def test_word_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"\x0a\x03\x0a\x01a\x12\x02\x18\x03")
    with pytest.raises(TokenizerError, match="only unigram and BPE"):
        read_spm(path)
