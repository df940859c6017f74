"""Content keys of prefix blocks. Pure Python.

A block is `BLOCK_TOKENS` tokens; its key is a hash over everything before it: what computed it (the namespace) and all
tokens up to its end. Equal keys mean equal content, so blocks are shared between conversations, and nothing that was
computed by other weights, with another adapter or with other settings can ever be taken for it.
"""

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["BLOCK_TOKENS", "FORMAT_VERSION", "chain", "namespace"]

BLOCK_TOKENS = 256
FORMAT_VERSION = 1


def namespace(parts: Mapping[str, Any]) -> bytes:
    """A key for what computes: weights, adapter, tokenizer, states and their settings (JSON-able values)."""
    text = json.dumps({"format": FORMAT_VERSION, "block": BLOCK_TOKENS, **parts}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def chain(root: bytes, tokens: Sequence[int]) -> list[bytes]:
    """The keys of all whole blocks of `tokens`, first to last."""
    keys, key = [], root
    for end in range(BLOCK_TOKENS, len(tokens) + 1, BLOCK_TOKENS):
        data = array("q", tokens[end - BLOCK_TOKENS : end])
        key = hashlib.blake2b(key + data.tobytes(), digest_size=16).digest()
        keys.append(key)
    return keys
