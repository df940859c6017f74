"""Vocabularies of every kind of tokenizer, by the serialized tokenizer and by the texts of the tokens."""

from types import SimpleNamespace
from typing import Any

import pytest

from mlx_lm.errors import TokenizerError
from mlx_lm.grammar import JsonSchema, compile_constraint
from mlx_lm.grammar.compiler import compiler_of
from mlx_lm.grammar.vocabulary import build_vocabulary, token_bytes


class WithoutBackend:
    """The names of a Hugging Face tokenizer that is written in Python."""

    def __init__(self, inner: Any) -> None:
        for name in ("get_vocab", "encode", "all_special_ids", "added_tokens_decoder", "eos_token_ids"):
            setattr(self, name, getattr(inner, name))


def test_both_ways_give_the_same_bytes(tokenizer: Any):
    exact = build_vocabulary(tokenizer)
    tokens, special = token_bytes(WithoutBackend(tokenizer))
    assert len(tokens) == exact.vocab_size
    for i, text in enumerate(tokens):
        if text == b"\xff":  # never part of text; llguidance marks special tokens with it
            continue
        assert exact.is_special_token(i) == (i in special)
        if i not in special:
            assert exact.decode_bytes([i]) == text
    assert build_vocabulary(WithoutBackend(tokenizer)).vocab_size == exact.vocab_size


def test_sentencepiece_texts():
    vocab = {"<unk>": 0, "</s>": 1, "<0x0A>": 2, "<0xFF>": 3, "▁the": 4, "é": 5, "▁": 6}
    fake = SimpleNamespace(get_vocab=lambda: vocab, all_special_ids=[0, 1], added_tokens_decoder={})
    tokens, special = token_bytes(fake)
    assert tokens == [b"<unk>", b"</s>", b"\n", b"\xff", b" the", "é".encode(), b" "]
    assert special == [0, 1]


def test_a_sentencepiece_tokenizer_with_byte_fallback():
    from tokenizers import Tokenizer, decoders, models, normalizers

    from mlx_lm.tokenizer import FastTokenizer, TokenizerWrapper

    letters = [*'{}[]":,truefalsn01▁', "tr", "true"]
    pieces = ["<unk>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *dict.fromkeys(letters)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab, [("t", "r")], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    wrapped = TokenizerWrapper(FastTokenizer(backend, special={"eos_token": "</s>", "unk_token": "<unk>"}))
    constraint = compile_constraint(
        JsonSchema({"type": "object", "properties": {"é": {"type": "boolean"}}}), wrapped
    ).start()
    for token in wrapped.encode('{"é":true}', add_special_tokens=False):
        constraint.accept(token)
    assert constraint.done


def test_truncation_and_padding_do_not_reach_forced_text(tokenizer: Any):
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    fake = SimpleNamespace(backend_tokenizer=backend, eos_token_ids={tokenizer.eos_token_id})
    assert build_vocabulary(fake).tokenize_str("abc abc") == tokenizer.encode("abc abc")


def test_an_end_token_is_needed(byte_tokenizer: Any):
    with pytest.raises(TokenizerError, match="end-of-text"):
        compile_constraint(int, SimpleNamespace(get_vocab=byte_tokenizer.get_vocab, encode=byte_tokenizer.encode))


def test_unreadable_tokenizers_are_a_typed_error():
    with pytest.raises(TokenizerError, match="vocabulary"):
        build_vocabulary(SimpleNamespace(eos_token_ids={0}))


def test_grammars_are_kept_with_the_tokenizer(tokenizer: Any):
    first, second = compile_constraint(int, tokenizer), compile_constraint(int, tokenizer)
    assert first.template is second.template
    assert compiler_of(tokenizer) is compiler_of(type(tokenizer)(tokenizer))
    for i in range(80):
        compile_constraint(JsonSchema({"const": i}), tokenizer)
    assert compile_constraint(int, tokenizer).template is not first.template


def test_end_tokens_that_come_later_count(tokenizer: Any):
    other = type(tokenizer)(tokenizer)
    other.add_eos_token("</think>")
    constraint = compile_constraint(bool, other).start()
    for token in tokenizer.encode("True"):
        constraint.accept(token)
    constraint.accept(tokenizer.think_end_id)
    assert constraint.done
