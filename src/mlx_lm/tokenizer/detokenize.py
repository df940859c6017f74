"""Streaming detokenizers: tokens in one by one, text out as soon as it is final.

Contract: after any sequence of `add_token` and one `finalize`, `text` equals the tokenizer's full decode of the same
ids (special tokens included), whatever the ids are. Text that a later token could still change is held back: an
unfinished UTF-8 sequence, or a run of byte-fallback tokens, which the decoder reads as a whole.
Every token costs amortised constant time.

`detokenizer_for(decoder)` picks the class from the `decoder` entry of a tokenizer.json.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = [
    "BPEStreamingDetokenizer",
    "NaiveStreamingDetokenizer",
    "SPMStreamingDetokenizer",
    "SpmDecoder",
    "StreamingDetokenizer",
    "byte_alphabet",
    "read_decoder",
]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> list[str]:
    """The 256 printable characters that stand for bytes in byte-level BPE vocabularies (GPT-2), by byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    characters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [characters[byte] for byte in range(256)]


class StreamingDetokenizer:
    """Base: collects tokens and the segments of text that are final.

    `text`: everything final so far. `last_segment`: what became final since it was last read. `tokens`: all ids.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.tokens: list[int] = []
        self._text = ""
        self._segments: list[str] = []
        self._unread: list[str] = []

    def add_token(self, token: int) -> None:
        raise NotImplementedError

    def finalize(self) -> None:
        raise NotImplementedError

    def fresh(self) -> StreamingDetokenizer:
        """An empty detokenizer that shares this one's tables."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.reset()
        return other

    @property
    def text(self) -> str:
        if self._segments:
            self._text = "".join((self._text, *self._segments))
            self._segments = []
        return self._text

    @property
    def last_segment(self) -> str:
        segment = "".join(self._unread)
        self._unread = []
        return segment

    def _emit(self, segment: str) -> None:
        if segment:
            self._segments.append(segment)
            self._unread.append(segment)


def _backend(tokenizer: Any) -> Any:
    """The `tokenizers.Tokenizer` inside our own or a transformers tokenizer, or None."""
    return getattr(tokenizer, "backend_tokenizer", None)


def _token_reader(tokenizer: Any) -> Callable[[int], str | None]:
    backend = _backend(tokenizer)
    return backend.id_to_token if backend is not None else tokenizer.convert_ids_to_tokens


class BPEStreamingDetokenizer(StreamingDetokenizer):
    """For byte-level BPE: each token is a piece of a byte string, decoded as UTF-8 with replacement."""

    def __init__(self, tokenizer: Any) -> None:
        self._read = _token_reader(tokenizer)
        self._byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
        self._bytes: dict[int, bytes] = {}
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def _bytes_of(self, token: int) -> bytes:
        text = self._read(token)
        if text is None:  # ids past the vocabulary print nothing, as in decode
            return b""
        try:
            return bytes([self._byte_of[character] for character in text])
        except KeyError:  # an added token outside the alphabet stands for itself
            return text.encode("utf-8", "replace")

    def add_token(self, token: int) -> None:
        self.tokens.append(token)
        data = self._bytes.get(token)
        if data is None:
            data = self._bytes[token] = self._bytes_of(token)
        self._emit(self._decoder.decode(data))

    def finalize(self) -> None:
        self._emit(self._decoder.decode(b"", final=True))


@dataclass(frozen=True)
class SpmDecoder:
    """What a SentencePiece-like decoder does: replacements, byte fallback, leading characters to strip."""

    replacements: tuple[tuple[str, str], ...] = (("▁", " "),)
    byte_fallback: bool = True
    strip: str = " "
    strip_count: int = 0
    drop_in_first: str = ""  # Metaspace: removed altogether from the first token


class SPMStreamingDetokenizer(StreamingDetokenizer):
    """For SentencePiece vocabularies: `▁` is a space, `<0x41>` a byte.

    A run of byte tokens is text only if the whole run is valid UTF-8, so a run is held until it ends.
    """

    def __init__(self, tokenizer: Any, trim_space: bool = True, decoder: SpmDecoder | None = None) -> None:
        self._read = _token_reader(tokenizer)
        self._plan = decoder or SpmDecoder(strip_count=int(trim_space))
        self._pieces: dict[int, str | int | None] = {}
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self._run = bytearray()
        self._to_strip = self._plan.strip_count
        self._first = True

    def _piece(self, token: int) -> str | int | None:
        """A token's text, or its byte, or None for ids past the vocabulary."""
        text = self._read(token)
        if text is None:
            return None
        match = _BYTE_TOKEN.fullmatch(text) if self._plan.byte_fallback else None
        if match:
            return int(match[1], 16)
        for old, new in self._plan.replacements:
            text = text.replace(old, new)
        return text

    def add_token(self, token: int) -> None:
        self.tokens.append(token)
        if token not in self._pieces:
            self._pieces[token] = self._piece(token)
        piece = self._pieces[token]
        if piece is None:
            return
        if isinstance(piece, int):
            self._run.append(piece)
        else:
            if self._run:
                self._end_run()
            if self._first and self._plan.drop_in_first:
                piece = (self._read(token) or "").replace(self._plan.drop_in_first, "")
            self._emit_stripped(piece)
        self._first = False

    def finalize(self) -> None:
        if self._run:
            self._end_run()

    def _end_run(self) -> None:
        data = bytes(self._run)
        self._run.clear()
        try:
            self._emit_stripped(data.decode("utf-8"))
        except UnicodeDecodeError:
            self._emit_stripped("\ufffd" * len(data))

    def _emit_stripped(self, text: str) -> None:
        while self._to_strip and text:
            if text[0] != self._plan.strip:
                self._to_strip = 0
            else:
                text = text[1:]
                self._to_strip -= 1
        self._emit(text)


class NaiveStreamingDetokenizer(StreamingDetokenizer):
    """For any tokenizer that can decode: decodes a short window and takes what is new.

    The window keeps a few tokens of context, so that decoders which look at neighbours see them.
    """

    CONTEXT = 8
    HOLD = 24

    def __init__(self, tokenizer: Any) -> None:
        backend = _backend(tokenizer)
        if backend is not None:
            self._decode: Callable[[list[int]], str] = lambda ids: backend.decode(ids, skip_special_tokens=False)
        else:
            self._decode = tokenizer.decode
        self._read = _token_reader(tokenizer) if hasattr(tokenizer, "convert_ids_to_tokens") else lambda _: ""
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self._window: list[int] = []
        self._done = 0  # characters of the window's text that are out already
        self._held = 0  # tokens since the last one whose text went out

    def add_token(self, token: int) -> None:
        self.tokens.append(token)
        piece = self._read(token)
        if piece is None:  # ids past the vocabulary print nothing, and are no context either
            return
        self._window.append(token)
        self._held += 1
        if _BYTE_TOKEN.fullmatch(piece):
            return
        text = self._decode(self._window)
        if text.endswith("\ufffd") and self._held < self.HOLD:
            return
        final = len(text) - text.endswith("\ufffd")
        self._emit(text[self._done : final])
        withheld = len(text) - final
        self._window = self._window[-self.CONTEXT :]
        self._done = max(len(self._decode(self._window)) - withheld, 0)
        self._held = 0

    def finalize(self) -> None:
        if not self._window:
            return
        full, out = self._decode(self.tokens), self.text
        self._emit(full[len(out) :] if full.startswith(out) else self._decode(self._window)[self._done :])
        self._window, self._done, self._held = [], 0, 0


def read_decoder(decoder: str | dict[str, Any] | None) -> type[BPEStreamingDetokenizer] | SpmDecoder | None:
    """What streams a tokenizer.json `decoder` exactly: the byte-level class, an SPM plan, or None (use Naive)."""
    if isinstance(decoder, str):
        decoder = json.loads(decoder)
    if not isinstance(decoder, dict):
        return None
    kind = decoder.get("type")
    if kind == "ByteLevel":
        return BPEStreamingDetokenizer
    if kind == "Metaspace":
        mark = decoder.get("replacement", "▁")
        scheme = decoder.get("prepend_scheme") or ("always" if decoder.get("add_prefix_space", True) else "never")
        return SpmDecoder(((mark, " "),), byte_fallback=False, drop_in_first="" if scheme == "never" else mark)
    return _read_sequence(decoder.get("decoders") or []) if kind == "Sequence" else None


def _read_sequence(steps: list[dict[str, Any]]) -> type[BPEStreamingDetokenizer] | SpmDecoder | None:
    if len(steps) == 1:
        return read_decoder(steps[0])
    replacements: list[tuple[str, str]] = []
    byte_fallback = fused = False
    strip, strip_count = " ", 0
    for step in steps:
        kind = step.get("type")
        if kind == "Replace" and not byte_fallback and not fused and "String" in step.get("pattern", {}):
            replacements.append((step["pattern"]["String"], step.get("content", "")))
        elif kind == "ByteFallback" and not byte_fallback and not fused:
            byte_fallback = True
        elif kind == "Fuse" and not fused:
            fused = True
        elif kind == "Strip" and fused and not strip_count and not step.get("stop"):
            strip, strip_count = step.get("content", " "), step.get("start", 0)
        else:
            return None
    return SpmDecoder(tuple(replacements), byte_fallback, strip, strip_count)
