"""Byte-level BPE vocabularies: the patterns that cut text into words, and the builder.

Contract: `byte_level_bpe(vocab, merges, kind, where)` gives a `tokenizers.Tokenizer` whose vocabulary is written in
the byte alphabet of GPT-2. `kind` names the word pattern, in the names that GGUF files use in `tokenizer.ggml.pre`.
Patterns are those of the tokenizer.json files that the models were published with.

This module does not know files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_lm.errors import TokenizerError
from mlx_lm.tokenizer.source import build

__all__ = ["PATTERNS", "PreTokenizer", "byte_level_bpe", "pre_tokenizer_for"]

_TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _TAIL
_QWEN2 = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _TAIL
_QWEN35 = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _TAIL
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"


def _cased(ending: str, digits: str, closing: str, exclude: str = "") -> str:
    """The o200k family: words that end where a lower-case letter meets an upper-case one."""
    upper, lower = f"[{_UPPER}{exclude}]", f"[{_LOWER}{exclude}]"
    lead = r"[^\r\n\p{L}\p{N}]?"
    words = f"{lead}{upper}*{lower}+{ending}|{lead}{upper}+{lower}*{ending}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+{closing}{_TAIL}"


_O200K = _cased(_ENDINGS + "?", r"\p{N}{1,3}", r"[\r\n/]*")
_TEKKEN = _cased("", r"\p{N}", r"[\r\n/]*")
_KIMI = r"[\p{Han}]+|" + _cased(_ENDINGS + "?", r"\p{N}{1,3}", r"[\r\n]*", r"&&[^\p{Han}]")
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",  # noqa: RUF001
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    + _TAIL,
)
# Cased letters, as ranges of code points: spelled by number, because normalizing editors change some of them.
_DEEPSEEK_LETTERS = (
    r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373}"
    r"\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}"
    r"\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}"
    r"\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}"
    r"\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}"
    r"\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}"
    r"\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}"
    r"\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}"
    r"\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}"
    r"\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}"
    r"\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}"
    r"\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}"
)
_CJK = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+"
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_DEEPSEEK_LETTERS}]+",
    r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
    r"\s+$",
    _CJK,
    r"\p{N}+",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")
_PUNCTUATION = r"[\p{P}\$\+<=>\^~\|]+"


@dataclass(frozen=True)
class PreTokenizer:
    """How text is cut before BPE: patterns applied one after the other, and whether whole words skip the merges."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    nfc: bool = False
    add_bos: bool = False


_GPT2_LIKE = PreTokenizer((_GPT2,))
_DIGITS_APART = PreTokenizer((r"\p{N}", _GPT2))
_LLAMA3_LIKE = PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True)
_LLAMA3_PLAIN = PreTokenizer((_LLAMA3,))
_QWEN2_LIKE = PreTokenizer((_QWEN2,), nfc=True)
_O200K_LIKE = PreTokenizer((_O200K,), ignore_merges=True)

PATTERNS: Mapping[str, PreTokenizer] = {
    "default": PreTokenizer((_PUNCTUATION, _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    **dict.fromkeys(("gpt-2", "gpt2", "mpt", "olmo", "jais", "phi-2", "trillion", "roberta-bpe"), _GPT2_LIKE),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS_APART),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"), _LLAMA3_LIKE),
    **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe", "exaone4", "cl100k"), _LLAMA3_PLAIN),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN2_LIKE),
    "stablelm2": PreTokenizer((_QWEN2,)),
    "qwen35": PreTokenizer((_QWEN35,), nfc=True),
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    "deepseek-llm": PreTokenizer(_DEEPSEEK_LLM),
    "deepseek-coder": PreTokenizer(_DEEPSEEK_CODER),
    "deepseek-v3": PreTokenizer(_DEEPSEEK_V3),
    **dict.fromkeys(("gpt-4o", "llama4", "o200k"), _O200K_LIKE),
    "tekken": PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True),
    "kimi-k2": PreTokenizer((_KIMI,), ignore_merges=True),
}


def pre_tokenizer_for(kind: str, where: str) -> PreTokenizer:
    """The word patterns called `kind`. Raises TokenizerError for an unknown name: guessing would corrupt text."""
    if kind not in PATTERNS:
        raise TokenizerError(f"{where}: unknown pre-tokenizer {kind!r}; known: {', '.join(PATTERNS)}.")
    return PATTERNS[kind]


def byte_level_bpe(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, ...]],
    kind: str | PreTokenizer,
    where: str,
    *,
    added: Iterable[tuple[str, bool]] = (),
) -> Any:
    """Builds the tokenizer.

    Args:
        vocab: token text in the byte alphabet -> id. `added` tokens stand for themselves.
        merges: pairs in order of priority.
        kind: a name of `PATTERNS`, or the patterns themselves.
        where: the file, for messages.
        added: (text, special) of tokens that are matched whole in the input.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    plan = pre_tokenizer_for(kind, where) if isinstance(kind, str) else kind
    if not set(map(len, merges)) <= {2}:
        wrong = next(pair for pair in merges if len(pair) != 2)
        raise TokenizerError(f"{where}: a merge must have two parts, not {wrong!r:.80}.")

    def make() -> Any:
        backend = Tokenizer(models.BPE(vocab, merges, ignore_merges=plan.ignore_merges))  # type: ignore[arg-type]
        splits: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in plan.patterns]
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
        backend.decoder = decoders.ByteLevel()
        if plan.nfc:
            backend.normalizer = normalizers.NFC()
        add_tokens(backend, added)
        return backend

    def add_tokens(backend: Any, tokens: Iterable[tuple[str, bool]]) -> None:
        batch = [AddedToken(text, special=special, normalized=False) for text, special in tokens]
        backend.add_tokens(batch)

    return build(where, make)
