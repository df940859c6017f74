"""SentencePiece models (`tokenizer.model`): read without the sentencepiece package, converted to `tokenizers`.

Contract: the converted tokenizer gives the ids that the sentencepiece package gives, for unigram and BPE models, with
byte fallback, dummy prefix, whitespace rules and the model's precompiled character map. Two differences are meant:
control pieces written in the text become their ids, as everywhere on the Hub, and every stretch of text after such a
piece gets its own dummy prefix unless tokenizer_config.json says `"legacy": false`.

Format: sentencepiece_model.proto. Word and character models, and whitespace as a suffix, are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_lm.errors import TokenizerError
from mlx_lm.tokenizer.source import Source, build

__all__ = ["SpmModel", "is_sentencepiece", "read_spm", "spm_backend", "spm_merges", "tokenizer_from_spm"]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class SpmModel:
    """What a tokenizer.model holds. `types` are the piece kinds of the format: NORMAL, UNKNOWN, CONTROL, ..."""

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]
    model_type: int = BPE
    byte_fallback: bool = False
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = False
    special: Mapping[str, str] | None = None


def is_sentencepiece(path: Path) -> bool:
    """Whether the file starts like a SentencePiece model: a message whose first field is a piece."""
    with path.open("rb") as file:
        return file.read(1) == b"\x0a"


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("truncated number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: (number, int | float32 bytes | bytes)."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")
        if at + size > len(data):
            raise ValueError("truncated field")
        yield key >> 3, data[at : at + size]
        at += size


def _piece(data: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1:
            text = value.decode("utf-8")
        elif number == 2:
            score = struct.unpack("<f", value)[0]
        elif number == 3:
            kind = value
    return text, score, kind


def read_spm(path: Path) -> SpmModel:
    """Reads a SentencePiece model. Raises TokenizerError for malformed and unsupported ones."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("larger than 256 MiB")
        fields = list(_fields(path.read_bytes()))
        pieces = [_piece(value) for number, value in fields if number == 1]
        specs = {n: dict(_fields(next((v for k, v in fields if k == n), b""))) for n in (2, 3)}
        trainer, normalizer = specs[2], specs[3]
        if not pieces:
            raise ValueError("no pieces")
        names = {40: "unk_token", 41: "bos_token", 42: "eos_token", 43: "pad_token"}
        defaults = {40: 0, 41: 1, 42: 2, 43: -1}
        special: dict[str, str] = {}
        for number, name in names.items():
            index = trainer.get(number, defaults[number])
            if 0 <= index < len(pieces) and pieces[index][2] in (CONTROL, UNKNOWN):
                special[name] = pieces[index][0]
        model_type = trainer.get(3, UNIGRAM)
        if model_type not in (UNIGRAM, BPE):
            raise ValueError("only unigram and BPE models are supported")
        if trainer.get(24) or normalizer.get(5, 1) == 0:
            raise ValueError("models with whitespace as a suffix or without whitespace marks are not supported")
    except (OSError, ValueError, TypeError, AttributeError, struct.error) as error:
        raise TokenizerError(f"{path}: not a usable SentencePiece model: {error}") from error
    texts, scores, types = zip(*pieces, strict=True)
    return SpmModel(
        texts,
        scores,
        types,
        model_type,
        byte_fallback=bool(trainer.get(35, 0)),
        charsmap=normalizer.get(2, b""),
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        special=special,
    )


def spm_merges(pieces: Sequence[str], scores: Sequence[float], mergeable: Sequence[bool]) -> list[tuple[str, str]]:
    """The merges of a scored vocabulary, best first.

    SentencePiece joins the neighbours whose union scores best, leftmost first; pairs with the same union are put in the
    order which keeps that true where they overlap.
    """
    known = {piece for piece, ok in zip(pieces, mergeable, strict=True) if ok}
    order = sorted((i for i in range(len(pieces)) if mergeable[i] and len(pieces[i]) > 1), key=lambda i: -scores[i])
    merges: list[tuple[str, str]] = []
    for i in order:
        piece = pieces[i]
        pairs = [
            (piece[:k], piece[k:]) for k in range(len(piece) - 1, 0, -1) if piece[:k] in known and piece[k:] in known
        ]
        overlap = len(pairs) > 1 and not {left for left, _ in pairs}.isdisjoint(right for _, right in pairs)
        merges += _leftmost_first(pairs) if overlap else pairs
    return merges


def _leftmost_first(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Puts (l1, r1) before (l2, r2) where r1 == l2: in `l1 r1 r2` the left one must win."""
    ordered: list[tuple[str, str]] = []
    rest = list(pairs)
    while rest:
        free = next((p for p in rest if not any(q is not p and q[1] == p[0] for q in rest)), rest[0])
        ordered.append(free)
        rest.remove(free)
    return ordered


def spm_backend(model: SpmModel, where: str, legacy: bool = True) -> Any:
    """The `tokenizers.Tokenizer` for a model."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    unknown = next((i for i, kind in enumerate(model.types) if kind == UNKNOWN), None)
    if len(set(model.pieces)) != len(model.pieces):
        raise TokenizerError(f"{where}: the vocabulary has duplicate pieces.")
    if model.model_type == UNIGRAM and unknown is None:
        raise TokenizerError(f"{where}: a unigram model needs a piece for what is unknown, and this one has none.")

    def make() -> Any:
        if model.model_type == UNIGRAM:
            scores = list(zip(model.pieces, model.scores, strict=True))
            engine: Any = models.Unigram(scores, unknown, model.byte_fallback)
        else:
            mergeable = [kind == NORMAL for kind in model.types]
            engine = models.BPE(
                {piece: i for i, piece in enumerate(model.pieces)},
                spm_merges(model.pieces, model.scores, mergeable),
                unk_token=None if unknown is None else model.pieces[unknown],
                fuse_unk=True,
                byte_fallback=model.byte_fallback,
            )
        backend = Tokenizer(engine)
        backend.normalizer = _normalizer(model, legacy)
        if not legacy and model.add_dummy_prefix:
            backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
        steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        backend.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * model.add_dummy_prefix)
        whole = [
            (p, k) for p, k in zip(model.pieces, model.types, strict=True) if k in (CONTROL, UNKNOWN, USER_DEFINED)
        ]
        backend.add_tokens([AddedToken(p, special=k != USER_DEFINED, normalized=False) for p, k in whole if p])
        return backend

    return build(where, make)


def _normalizer(model: SpmModel, legacy: bool) -> Any:
    from tokenizers import Regex, normalizers

    steps: list[Any] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        # Strip() would also take line breaks and tabs
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if legacy and model.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])


def tokenizer_from_spm(path: Path, config: Mapping[str, Any]) -> Source:
    """Reads and converts a SentencePiece model; `config` is tokenizer_config.json (`legacy`)."""
    model = read_spm(path)
    backend = spm_backend(model, str(path), legacy=config.get("legacy") is not False)
    return Source(backend, model.special or {}, add_bos=model.model_type == BPE)
