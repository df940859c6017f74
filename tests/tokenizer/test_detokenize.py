"""Streaming equals the full decode, for any ids, on every kind of tokenizer."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_lm.tokenizer.detokenize import NaiveStreamingDetokenizer, SPMStreamingDetokenizer
from mlx_lm.tokenizer.fast import FastTokenizer
from mlx_lm.tokenizer.spm import tokenizer_from_spm
from mlx_lm.tokenizer.tiktoken_bpe import tokenizer_from_tiktoken
from mlx_lm.tokenizer.wrapper import TokenizerWrapper

KINDS = ["byte_level", "tiktoken", "bpe_bytes", "bpe_noprefix", "unigram", "unigram_bytes", "metaspace", "wordpiece"]


def _other(kind: str) -> Any:
    from tokenizers import Tokenizer, decoders, models

    words = ["▁the", "▁", "cat", "##s", ".", "▁a▁b", "é"]
    if kind == "metaspace":
        tokenizer = Tokenizer(models.Unigram([(word, -1.0) for word in words], 0, False))
        tokenizer.decoder = decoders.Metaspace()
    else:
        tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="▁"))
        tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers(byte_level: Any, spm_files: Any, ranks: Any, tmp_path_factory: Any) -> dict[str, FastTokenizer]:
    import base64

    path = tmp_path_factory.mktemp("tik") / "x.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()))
    backends = {"byte_level": byte_level, "tiktoken": tokenizer_from_tiktoken(path, {}).backend}
    backends |= {name: tokenizer_from_spm(file, {}).backend for name, file in spm_files.items()}
    backends |= {name: _other(name) for name in ("metaspace", "wordpiece")}
    return {name: FastTokenizer(backend) for name, backend in backends.items()}


def _stream(detokenizer: Any, ids: list[int]) -> str:
    segments = []
    for token in ids:
        detokenizer.add_token(token)
        segments.append(detokenizer.last_segment)
    detokenizer.finalize()
    segments.append(detokenizer.last_segment)
    assert "".join(segments) == detokenizer.text
    assert detokenizer.tokens == ids
    return detokenizer.text


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_ids_stream_as_they_decode(tokenizers: dict[str, FastTokenizer], kind: str, data: st.DataObject) -> None:
    tokenizer = tokenizers[kind]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) + 3), max_size=60))
    assert _stream(TokenizerWrapper(tokenizer).detokenizer, ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["byte_level", "bpe_bytes", "wordpiece"])
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_naive_any_ids(tokenizers: dict[str, FastTokenizer], kind: str, data: st.DataObject) -> None:
    tokenizer = tokenizers[kind]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=80))
    assert _stream(NaiveStreamingDetokenizer(tokenizer), ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["byte_level", "tiktoken", "bpe_bytes", "unigram_bytes"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=30))
def test_text_at_every_byte_split(tokenizers: dict[str, FastTokenizer], kind: str, text: str) -> None:
    """One token per byte, cut anywhere: what is shown early never changes, and the end is the full decode."""
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(text)
    for cut in range(len(ids) + 1):
        detokenizer = TokenizerWrapper(tokenizer).detokenizer
        full = _stream(detokenizer, ids[:cut])
        assert full == tokenizer.decode(ids[:cut])


def test_incomplete_utf8_is_held_and_flushed(byte_level: Any) -> None:
    tokenizer = TokenizerWrapper(FastTokenizer(byte_level))
    snowman = tokenizer.encode("☃")
    assert len(snowman) == 3
    detokenizer = tokenizer.detokenizer
    for token in snowman[:2]:
        detokenizer.add_token(token)
        assert detokenizer.last_segment == ""
    detokenizer.finalize()
    assert detokenizer.text == tokenizer.decode(snowman[:2]) == "\ufffd"


def test_fresh_instance_each_time(byte_level: Any) -> None:
    tokenizer = TokenizerWrapper(FastTokenizer(byte_level))
    first = tokenizer.detokenizer
    first.add_token(tokenizer.encode("a")[0])
    assert tokenizer.detokenizer.text == "" and first.text == "a"
    first.reset()
    assert first.text == "" and first.tokens == []


def test_spm_without_trimming(tokenizers: dict[str, FastTokenizer]) -> None:
    tokenizer = tokenizers["bpe_bytes"]
    ids = tokenizer.encode("The dog")
    assert _stream(SPMStreamingDetokenizer(tokenizer), ids) == "The dog"
    assert _stream(SPMStreamingDetokenizer(tokenizer, trim_space=False), ids) == " The dog"


def test_naive_decodes_only_short_windows(byte_level: Any) -> None:
    """50,000 tokens on one line: the work per token stays constant."""
    longest = 0
    tokenizer = FastTokenizer(byte_level)

    class Counting:
        def decode(self, ids: list[int]) -> str:
            nonlocal longest
            longest = max(longest, len(ids)) if len(ids) < 3000 else longest
            return tokenizer.decode(ids)

    detokenizer = NaiveStreamingDetokenizer(Counting())
    assert _stream(detokenizer, [200, 17] * 1500) == tokenizer.decode([200, 17] * 1500)
    assert longest <= detokenizer.CONTEXT + detokenizer.HOLD
