"""tiktoken vocabularies (base64 token and rank on each line) and Mistral's tekken.json, converted to `tokenizers`.

Contract: the converted tokenizer gives the ids that tiktoken gives with the same ranks, pattern and special tokens.
tiktoken joins the neighbours whose union has the lowest rank; a byte-level BPE needs the pairs themselves, so they are
derived
from the ranks.

A file says nothing about its word pattern and special tokens. They follow from tokenizer_config.json and, for the
families whose original release is a bare file (Llama 3 and 4, Qwen), from the number of ranks.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_lm.errors import RemoteCodeError, TokenizerError
from mlx_lm.tokenizer.bytelevel import PreTokenizer, byte_level_bpe
from mlx_lm.tokenizer.detokenize import byte_alphabet
from mlx_lm.tokenizer.source import Source

__all__ = ["derive_merges", "read_ranks", "tokenizer_from_tekken", "tokenizer_from_tiktoken"]

MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class _Family:
    pattern: str
    special: tuple[str, ...] = ()
    bos: str | None = None
    eos: str | None = None
    add_bos: bool = False


_LLAMA3_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(2, 247)),
)
_QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))


def _reserved(name: str, start: int, count: int) -> tuple[str, ...]:
    return tuple(f"<|{name}reserved_special_token_{i}|>" for i in range(start, start + count))


_LLAMA4_SPECIAL = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>", "<|step|>"),
    *_reserved("text_post_train_", 0, 6),
    *("<|python_start|>", "<|python_end|>", "<|finetune_right_pad|>"),
    *_reserved("text_post_train_", 8, 61),
    *("<|image_start|>", "<|image_end|>"),
    *_reserved("vision_", 0, 2),
    *("<|tile_x_separator|>", "<|tile_y_separator|>"),
    *_reserved("vision_", 2, 4),
    *("<|image|>", "<|vision_reserved_special_token_6|>", "<|patch|>"),
    *_reserved("vision_", 7, 1041),
    *_reserved("reasoning_", 0, 8),
    *("<|reasoning_thinking_start|>", "<|reasoning_thinking_end|>"),
    *_reserved("", 0, 904),
)
_BY_CLASS = {"TikTokenTokenizer": _Family("kimi-k2"), "ChatGLM4Tokenizer": _Family("glm4")}
_BY_RANKS = {
    128_000: _Family("llama-bpe", _LLAMA3_SPECIAL, "<|begin_of_text|>", "<|eot_id|>", add_bos=True),
    200_000: _Family("llama4", _LLAMA4_SPECIAL, "<|begin_of_text|>", "<|eot|>", add_bos=True),
    151_643: _Family("qwen2", _QWEN_SPECIAL, None, "<|endoftext|>"),
}


def read_ranks(path: Path) -> dict[bytes, int]:
    """Reads `base64 rank` lines: token bytes -> rank. Raises TokenizerError for anything else."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("larger than 256 MiB")
        ranks: dict[bytes, int] = {}
        for line in path.read_bytes().split(b"\n"):
            if line.strip():
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
    except (OSError, ValueError, binascii.Error) as error:
        raise TokenizerError(f"{path}: not a tiktoken vocabulary: {error}") from error
    if not ranks or min(ranks.values()) < 0 or len(set(ranks.values())) != len(ranks):
        raise TokenizerError(f"{path}: not a tiktoken vocabulary: ranks are missing, negative or repeated.")
    missing = sum(bytes([byte]) not in ranks for byte in range(256))
    if missing:
        raise TokenizerError(f"{path}: not a tiktoken vocabulary: {missing} of the 256 single bytes are missing.")
    return ranks


def derive_merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merges of a tiktoken vocabulary in order of rank: every way to join a token from two of lower rank.

    Only one of a token's pairs can ever stand side by side (the one that is left when the token itself is encoded, for
    the joins inside it happen in the same order wherever it stands), so the others are harmless, and finding them out
    would cost seconds.
    """
    merges = []
    get = ranks.get
    for token in sorted(ranks, key=ranks.__getitem__):
        limit = ranks[token]
        for cut in range(1, len(token)):
            if get(token[:cut], limit) < limit and get(token[cut:], limit) < limit:
                merges.append((token[:cut], token[cut:]))
    return merges


def _backend(
    ranks: Mapping[bytes, int], kind: str | PreTokenizer, added: Sequence[str], where: str, shift: int = 0
) -> Any:
    """`added` tokens follow the ranks, or come first where `shift` leaves room for them."""
    table = {byte: character for byte, character in enumerate(byte_alphabet())}

    def text(token: bytes) -> str:
        return token.decode("latin-1").translate(table)

    vocab = {text(token): rank + shift for token, rank in ranks.items()}
    start = 0 if shift else max(ranks.values()) + 1
    vocab.update({name: start + i for i, name in enumerate(added)})
    merges = [(text(a), text(b)) for a, b in derive_merges(ranks)]
    return byte_level_bpe(vocab, merges, kind, where, added=[(name, True) for name in added])


def tokenizer_from_tiktoken(path: Path, config: Mapping[str, Any]) -> Source:
    """Reads a tiktoken file; `config` is tokenizer_config.json, whose `added_tokens_decoder` names special tokens."""
    ranks = read_ranks(path)
    decoder = config.get("added_tokens_decoder") or {}
    kind = str(config.get("tokenizer_class", "")).removesuffix("Fast")
    family = _BY_CLASS.get(kind) or _BY_RANKS.get(len(ranks))
    if family is None and config.get("auto_map"):
        raise RemoteCodeError(f"{path}: the word pattern of {kind} is only in the model's own code, which is not run.")
    family = family or _Family("cl100k")
    start = max(ranks.values()) + 1
    try:
        special = [decoder[key]["content"] for key in sorted(decoder, key=int) if int(key) >= start]
        gaps = [key for i, key in enumerate(sorted(int(k) for k in decoder if int(k) >= start)) if key != start + i]
    except (KeyError, TypeError, ValueError) as error:
        raise TokenizerError(f"{path.parent / 'tokenizer_config.json'}: malformed added_tokens_decoder") from error
    if gaps:
        special = _fill_gaps(decoder, start)
    backend = _backend(ranks, family.pattern, special or family.special, str(path))
    named = {"bos_token": family.bos, "eos_token": family.eos}
    return Source(backend, {name: text for name, text in named.items() if text}, add_bos=family.add_bos)


def _fill_gaps(decoder: Mapping[str, Any], start: int) -> list[str]:
    """Special tokens by id, with reserved names for the ids between them (as Kimi's own code does)."""
    named = {int(key): entry["content"] for key, entry in decoder.items()}
    end = max(named) + 1
    if end - start > 100_000:
        raise TokenizerError("added_tokens_decoder: ids are too far beyond the vocabulary.")
    return [named.get(index, f"<|reserved_token_{index}|>") for index in range(start, end)]


def tokenizer_from_tekken(path: Path) -> Source:
    """Reads Mistral's tekken.json: special tokens first, then the ranks."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        config = data["config"]
        count = int(config["default_num_special_tokens"])
        size = int(config["default_vocab_size"]) - count
        ranks = {base64.b64decode(entry["token_bytes"]): int(entry["rank"]) for entry in data["vocab"][:size]}
        listed = data.get("special_tokens") or []
        names = {int(entry["rank"]): str(entry["token_str"]) for entry in listed}
        pattern = str(config["pattern"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TokenizerError(f"{path}: not a tekken vocabulary: {error}") from error
    if not names:
        early = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]")
        early += ("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]")
        early += ("[PREFIX]", "[MIDDLE]", "[SUFFIX]")
        names = dict(enumerate(early))
    if not 0 <= count <= 100_000 or sorted(ranks.values()) != list(range(len(ranks))):
        raise TokenizerError(f"{path}: not a tekken vocabulary: ranks have gaps.")
    added = [names.get(index, f"<SPECIAL_{index}>") for index in range(count)]
    backend = _backend(ranks, PreTokenizer((pattern,), ignore_merges=True), added, str(path), shift=count)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return Source(backend, {name: text for name, text in special.items() if text in added}, add_bos=True)
