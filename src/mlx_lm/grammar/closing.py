"""The shortest way out: bytes that complete a structure from where it stands.

Contract: `shortest_close` searches a matcher over single bytes, so every byte string that the grammar allows can be
found, whatever the tokens are. It follows what is forced and prefers what closes; the search is bounded, so what it
finds is short but not always the shortest, and where it finds nothing there may still be a way.

This module does not know tokens, budgets or kinds of grammars.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from mlx_lm.grammar.constraint import mask_tokens

__all__ = ["allowed_bytes", "byte_matcher", "byte_vocabulary", "kinds_of", "shortest_close"]

_END = 256
_FEW = 24
_ROUNDS = (
    (64, 0),
    (64, 1),
    (512, 0),
    (512, 1),
    (64, 2),
    (64, 3),
    (4096, 0),
)  # (longest path, departures from the first choice)
_NODES = 1500
_BETTER = 120  # for a shorter way than one that was found
_CLOSERS = b"}])>;"
_OPENERS = b"[{(<"


class _Bytes:
    """A vocabulary of the 256 bytes and an end token, as llguidance asks for it."""

    eos_token_id = _END
    bos_token_id = None
    special_token_ids = (_END,)

    def __init__(self) -> None:
        self.tokens = [*(bytes([i]) for i in range(256)), b"<end>"]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


def byte_vocabulary() -> Any:
    """An `llguidance.LLTokenizer` whose tokens are the bytes."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()), eos_token=_END)


def byte_matcher(vocabulary: Any, grammar: str) -> Any | None:
    """A matcher over bytes; None for grammars that name tokens of a vocabulary."""
    from llguidance import LLMatcher

    matcher = LLMatcher(vocabulary, grammar, log_level=0)
    return None if matcher.is_error() else matcher


def allowed_bytes(matcher: Any) -> list[int]:
    """The bytes that can come next."""
    if matcher.is_stopped():
        return []
    mask = np.frombuffer(matcher.compute_bitmask(), np.uint32)
    return [int(i) for i in mask_tokens(mask) if i < _END]


@cache
def _rank(byte: int, in_text: bool) -> int:
    """Lower goes first: what closes, then values that end soon; what opens, blanks and escapes last."""
    if byte in _CLOSERS:
        return 0 if not in_text else 3
    if byte == 0x22:
        return 1 if in_text else 3
    if 0x30 <= byte <= 0x39:
        return 2
    if byte in b" \t\r\n\\":
        return 9
    if byte in _OPENERS:
        return 7
    if byte in b"-+.,:'":
        return 6
    return 4 if byte < 0x80 else 8


def _kind(byte: int) -> int:
    """Bytes of one kind stand for each other where there are many: digits, letters, others."""
    if 0x30 <= byte <= 0x39:
        return -1
    if 0x41 <= byte <= 0x5A:
        return -2
    if 0x61 <= byte <= 0x7A:
        return -3
    return byte if byte < 0x80 else -4


def kinds_of(options: Sequence[int]) -> list[tuple[int, list[int]]]:
    """(one byte, all bytes that are taken to behave alike), in order; where there are few, every byte for itself."""
    if len(options) <= _FEW:
        return [(byte, [byte]) for byte in options]
    kinds: dict[int, list[int]] = {}
    for byte in options:
        kinds.setdefault(_kind(byte), []).append(byte)
    return [(alike[0], alike) for alike in kinds.values()]


def _choices(matcher: Any) -> list[int]:
    options = allowed_bytes(matcher)
    in_text = len(options) > 64
    options.sort(key=lambda byte: (_rank(byte, in_text), byte))
    return [byte for byte, _ in kinds_of(options)]


def shortest_close(matcher: Any, *, quick: bool = False) -> bytes | None:
    """Bytes after which the grammar may end; empty where it may end now; None where no way is found.

    `quick` takes the first way and looks for no shorter one.
    """
    best: bytes | None = None
    for length, departures in _ROUNDS:
        if best is not None and departures == 0:
            continue
        limit = length if best is None else min(length, len(best) - 1)
        search = _Search(limit, _BETTER if best is not None else _NODES)
        found = search.run(matcher.deep_copy(), b"", departures) if limit >= 0 else None
        if found is not None:
            best = found
            if quick or departures or len(best) <= 2:
                break
    return best


class _Search:
    """Depth first, leaving the first choice at most a given number of times."""

    def __init__(self, limit: int, nodes: int) -> None:
        self._limit = limit
        self._nodes = nodes

    def run(self, matcher: Any, path: bytes, departures: int) -> bytes | None:
        """Owns `matcher`. Follows the first choices in a loop, and tries others on the way back."""
        others: list[tuple[Any, bytes, list[int]]] = []
        while True:
            self._nodes -= 1
            if matcher.is_accepting():
                return path
            if self._nodes < 0 or len(path) >= self._limit or matcher.is_error():
                break
            forced = bytes(matcher.compute_ff_bytes())
            if forced:
                if len(path) + len(forced) > self._limit or not matcher.consume_tokens(list(forced)):
                    break
                path += forced
                continue
            choices = _choices(matcher)
            if not choices:
                break
            if departures and len(choices) > 1:
                others.append((matcher.deep_copy(), path, choices[1:]))
            if not matcher.consume_token(choices[0]):
                break
            path += bytes(choices[:1])
        for start, before, choices in others:
            for choice in choices:
                if self._nodes < 0:
                    return None
                branch = start.deep_copy()
                if branch.consume_token(choice):
                    found = self.run(branch, before + bytes([choice]), departures - 1)
                    if found is not None:
                        return found
        return None
