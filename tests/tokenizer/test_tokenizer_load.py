"""Every source of a tokenizer; hostile and broken folders are typed errors."""

import base64
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_texts import TEXTS

from mlx_lm.errors import MLXLMError, RemoteCodeError, TokenizerError
from mlx_lm.tokenizer import FastTokenizer, load_tokenizer
from mlx_lm.tokenizer.bytelevel import PATTERNS, byte_level_bpe
from mlx_lm.tokenizer.load import read_eos_token_ids
from mlx_lm.tokenizer.tiktoken_bpe import _LLAMA3_SPECIAL, _LLAMA4_SPECIAL, _QWEN_SPECIAL, tokenizer_from_tiktoken


def _plain_bpe(piece: bytes, ranks: dict[bytes, int]) -> list[int]:
    """tiktoken's rule, written plainly: the oracle."""
    if piece in ranks:
        return [ranks[piece]]
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while True:
        joined = [(ranks.get(a + b, 1 << 40), i) for i, (a, b) in enumerate(itertools.pairwise(parts))]
        if not joined or min(joined)[0] == 1 << 40:
            return [ranks[part] for part in parts]
        at = min(joined)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(word=st.text("abnhetdogs é你 ", min_size=1, max_size=25))
def test_tiktoken_merges(tiktoken_file: Path, ranks: dict[bytes, int], word: str) -> None:
    backend = tokenizer_from_tiktoken(tiktoken_file, {}).backend
    pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(word)]
    from mlx_lm.tokenizer.detokenize import byte_alphabet

    byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
    expected = [i for piece in pieces for i in _plain_bpe(bytes(byte_of[c] for c in piece), ranks)]
    assert backend.encode(word).ids == expected


def test_tiktoken_folder(tiktoken_file: Path, ranks: dict[bytes, int]) -> None:
    size = len(ranks)
    decoder = {str(size): {"content": "<bos>", "special": True}, str(size + 2): {"content": "<end>", "special": True}}
    config = {"tokenizer_class": "TikTokenTokenizer", "added_tokens_decoder": decoder, "eos_token": "<end>"}
    (tiktoken_file.parent / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tiktoken_file.parent)
    assert tokenizer.eos_token_ids == {size + 2}
    assert len(tokenizer) == size + 3
    assert tokenizer.encode("the<end>")[-1] == size + 2
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_of_bare_releases() -> None:
    assert (len(_LLAMA3_SPECIAL), len(_LLAMA4_SPECIAL), len(_QWEN_SPECIAL)) == (256, 2048, 208)
    assert len(set(_LLAMA4_SPECIAL)) == 2048


def test_tekken(ranks: dict[bytes, int], tmp_path: Path) -> None:
    vocab = [{"rank": rank, "token_bytes": base64.b64encode(token).decode()} for token, rank in ranks.items()]
    config = {"pattern": PATTERNS["tekken"].patterns[0], "default_vocab_size": len(ranks) + 20}
    config |= {"default_num_special_tokens": 20}
    (tmp_path / "tekken.json").write_text(json.dumps({"config": config, "vocab": vocab}))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert tokenizer.encode("a") == [1, ranks[b"a"] + 20]
    assert tokenizer.encode("[INST]", add_special_tokens=False) == [3]
    assert tokenizer.decode(tokenizer.encode("the 你 dog", add_special_tokens=False)) == "the 你 dog"


def test_slow_files(byte_level: Any, tmp_path: Path) -> None:
    model = json.loads(byte_level.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])])
    (tmp_path / "merges.txt").write_text(merges + "\n")
    tokenizer = load_tokenizer(tmp_path)
    for text in TEXTS:
        assert tokenizer.encode(text) == byte_level.encode(text).ids
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
    assert load_tokenizer(tmp_path).decode(tokenizer.encode("12345")) == "12345"


def test_eos_token_ids(tmp_path: Path) -> None:
    assert read_eos_token_ids(tmp_path) == set()
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"eos_token_id": 4}}))
    assert read_eos_token_ids(tmp_path) == {4}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    assert read_eos_token_ids(tmp_path) == {1, 2}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": "x"}))
    with pytest.raises(TokenizerError, match="eos_token_id"):
        read_eos_token_ids(tmp_path)


def test_explicit_arguments(folder: Path) -> None:
    tokenizer = load_tokenizer(folder, tokenizer_config={"eos_token": "<pad>"}, eos_token_ids=[1])
    assert tokenizer.eos_token == "<pad>" and tokenizer.eos_token_ids == {1, tokenizer.pad_token_id}


def test_bos_and_eos_are_the_callers_choice(folder: Path) -> None:
    plain = load_tokenizer(folder).encode("dog")
    both = {"bos_token": "<pad>", "add_bos_token": True, "add_eos_token": True}
    tokenizer = load_tokenizer(folder, tokenizer_config=both)
    assert tokenizer.encode("dog") == [tokenizer.bos_token_id, *plain, tokenizer.eos_token_id]
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(folder).encode("dog") == tokenizer.encode("dog")
    assert (
        load_tokenizer(folder, tokenizer_config={"add_bos_token": False, "add_eos_token": False}).encode("dog") == plain
    )


def test_code_in_the_folder_never_runs(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    code = f"open({str(canary)!r}, 'w').close()\n"
    for name in ("tokenization_evil.py", "__init__.py", "sitecustomize.py"):
        (folder / name).write_text(code)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["tokenization_evil.Evil", None]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(folder, trust_remote_code=True).decode(load_tokenizer(folder).encode("dog")) == "dog"
    (folder / "tokenizer.json").unlink()
    with pytest.raises(RemoteCodeError, match="trust_remote_code"):
        load_tokenizer(folder)
    assert not canary.exists()


def test_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="not a folder"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(TokenizerError):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}'),
        ("tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", '{"eos_token": 5}'),
        ("tokenizer_config.json", '{"model_max_length": "many"}'),
        ("tokenizer_config.json", '{"truncation_side": "up"}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": 1}}'),
        ("tokenizer_config.json", '{"chat_template": 5}'),
        ("tokenizer_config.json", "[" * 100_000),
        ("special_tokens_map.json", "nope"),
        ("config.json", '{"eos_token_id": {"a": 1}}'),
        ("generation_config.json", "\x00"),
    ],
)
def test_malformed_files(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(TokenizerError):
        load_tokenizer(folder)


@pytest.mark.parametrize("content", [b"", b"IQ==", b"!!! 0\n", b"IQ== x\n", b"IQ== 0\n", b"\xff\xfe"])
def test_malformed_tiktoken(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
        load_tokenizer(tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_corrupted_tokenizer_json(byte_level: Any, tmp_path_factory: Any, data: st.DataObject) -> None:
    raw = bytearray(byte_level.to_str().encode())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.sampled_from(b'0"{}[],:a\x00\xff'))
    path = tmp_path_factory.getbasetemp() / "broken"
    path.mkdir(exist_ok=True)
    (path / "tokenizer.json").write_bytes(raw)
    try:
        load_tokenizer(path).encode("the dog")
    except MLXLMError as error:
        assert "tokenizer" in str(error)


@pytest.mark.parametrize("kind", sorted(PATTERNS))
def test_every_pattern_compiles_and_keeps_the_text(byte_level: Any, kind: str) -> None:
    model = json.loads(byte_level.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = FastTokenizer(byte_level_bpe(model["vocab"], merges, kind, "test"))
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
