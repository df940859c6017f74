"""A model with random logits, which writes whatever a constraint allows and likes what closes; a tokenizer of bytes."""

from typing import Any

import numpy as np

from mlx_lm.grammar import Constraint, mask_tokens

CLOSING = b'"}],:0123456789'


def closing_tokens(vocabulary: Any) -> frozenset[int]:
    """Tokens that are made of what ends JSON values; without a taste for them random strings would never end."""
    return frozenset(
        token
        for byte in CLOSING
        for token in vocabulary.tokenize_bytes(bytes([byte]))
        if vocabulary.decode_bytes([token]) == bytes([byte])
    )


def random_output(
    constraint: Constraint, ends: frozenset[int], rng: np.random.Generator, liked: frozenset[int], limit: int = 400
) -> tuple[list[int], bool]:
    """(tokens without the end token, whether the output is finished)."""
    tokens: list[int] = []
    while len(tokens) < limit:
        if constraint.done:
            return tokens, True
        allowed = mask_tokens(constraint.mask())
        assert len(allowed), "no token is allowed"
        better = [token for token in allowed if int(token) in liked] if rng.random() < 0.5 else []
        token = int(rng.choice(better or allowed))
        constraint.accept(token)
        if token in ends:
            return tokens, True
        tokens.append(token)
    return tokens, constraint.complete


class ByteTokenizer:
    """The 256 bytes and an end token, without any library: the path by vocabulary bytes."""

    eos_token_id = 256
    bos_token_id = None
    eos_token_ids = frozenset({256})
    all_special_ids = (256,)

    def get_vocab(self) -> dict[Any, int]:
        return {bytes([i]): i for i in range(256)} | {"<end>": 256}

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return list(text.encode())
