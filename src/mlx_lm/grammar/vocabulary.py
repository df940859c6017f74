"""A tokenizer's vocabulary as llguidance wants it: the bytes of every token, and how text is cut into tokens.

Contract: `build_vocabulary(tokenizer)` reads any tokenizer with the Hugging Face names. Where there is a `tokenizers`
backend its serialized form is used, which keeps byte fallback, added and special tokens exact, and makes forced text
come in the tokens that the model itself would use. Otherwise the bytes are worked out from the texts of the tokens.

Special tokens are no text: a grammar never matches them unless it names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from mlx_lm.errors import TokenizerError

__all__ = ["build_vocabulary", "end_tokens", "token_bytes"]


def end_tokens(tokenizer: Any) -> frozenset[int]:
    """The ids that end generation. Raises TokenizerError when there are none: structured output could not end."""
    ids = getattr(tokenizer, "eos_token_ids", None)
    if not ids:
        single = getattr(tokenizer, "eos_token_id", None)
        ids = [] if single is None else [single] if isinstance(single, int) else list(single)
    if not ids:
        raise TokenizerError("The tokenizer has no end-of-text token, so structured output could never end.")
    return frozenset(int(i) for i in ids)


def build_vocabulary(tokenizer: Any) -> Any:
    """The `llguidance.LLTokenizer` of a tokenizer; about a second for 150,000 tokens."""
    from llguidance import LLTokenizer

    ends = sorted(end_tokens(tokenizer))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    reason: object = "it has no tokenizers backend"
    if backend is not None:
        try:
            return LLTokenizer(_serialized(backend), eos_token=ends)
        except ValueError as error:  # a kind of decoder or a version that llguidance does not read
            reason = error
    try:
        return _from_tokens(tokenizer, ends)
    except (AttributeError, TypeError, ValueError) as error:
        raise TokenizerError(
            f"No vocabulary for structured output can be read from this tokenizer ({type(tokenizer).__name__}): "
            f"{error}; {reason}."
        ) from error


def _serialized(backend: Any) -> str:
    """tokenizer.json without truncation and padding, which would cut and fill forced text."""
    if backend.truncation is None and backend.padding is None:
        return backend.to_str()
    from tokenizers import Tokenizer

    clean = Tokenizer.from_str(backend.to_str())
    clean.no_truncation()
    clean.no_padding()
    return clean.to_str()


class _Tokens:
    """What llguidance asks of a tokenizer that is not a `tokenizers` one."""

    def __init__(self, tokenizer: Any, ends: Sequence[int]) -> None:
        self.tokens, self.special_token_ids = token_bytes(tokenizer)
        self.eos_token_id = ends[0]
        self.bos_token_id = getattr(tokenizer, "bos_token_id", None)
        self._encode = tokenizer.encode

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise TypeError("Only str can be encoded.")
        return list(self._encode(text, add_special_tokens=False))


def _from_tokens(tokenizer: Any, ends: Sequence[int]) -> Any:
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Tokens(tokenizer, ends)), eos_token=list(ends))


def token_bytes(tokenizer: Any) -> tuple[list[bytes], list[int]]:
    """The bytes of every token by id, and the ids of special tokens, from the texts in the vocabulary.

    Reads byte-level texts (`Ġthe`), SentencePiece's (`▁the`, `<0x0A>`) and plain bytes. Ids without a token are empty.
    """
    texts: dict[int, Any] = {i: text for text, i in tokenizer.get_vocab().items()}
    if not texts:
        raise ValueError("the vocabulary is empty")
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    special = set(getattr(tokenizer, "all_special_ids", ()) or ())
    special |= {int(i) for i, token in added.items() if getattr(token, "special", False)}
    plain = {int(i): str(getattr(token, "content", token)) for i, token in added.items()}
    byte_level = any(isinstance(t, str) and "Ġ" in t for t in texts.values()) and "<0x0A>" not in texts.values()
    tokens = [b""] * (max(texts) + 1)
    for i, text in texts.items():
        if i in plain or i in special:
            tokens[i] = plain.get(i, str(text)).encode("utf-8", "replace")
        elif isinstance(text, bytes):
            tokens[i] = text
        else:
            tokens[i] = _byte_level(text) if byte_level else _sentencepiece(text)
    return tokens, sorted(i for i in special if 0 <= i < len(tokens))


def _sentencepiece(text: str) -> bytes:
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        try:
            return bytes([int(text[3:5], 16)])
        except ValueError:
            pass
    return text.replace("▁", " ").encode("utf-8", "replace")


def _byte_level(text: str) -> bytes:
    table = _byte_alphabet()
    if all(character in table for character in text):
        return bytes(table[character] for character in text)
    return text.encode("utf-8", "replace")


@cache
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(rest)}
