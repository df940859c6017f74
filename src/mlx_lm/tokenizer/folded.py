"""Token ids folded together where their texts differ in case, accents or kind of white space only.

Source: Engram, https://arxiv.org/abs/2601.07372, section 2, with the normalization of DeepSeek-V4.1. Imports no MLX.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["folded_ids"]

_REPLACED = "\ufffd"


def folded_ids(backend: Any, count: int) -> list[int]:
    """For each of `count` token ids of a `tokenizers.Tokenizer` the number of its class, in order of appearance.

    Ids that the tokenizer does not have are in class 0.
    """
    from tokenizers import normalizers

    letters = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    ends = normalizers.Strip()
    classes: dict[str, int] = {}
    result = [0] * count
    for token in range(min(count, backend.get_vocab_size(with_added_tokens=True))):
        text = backend.decode([token], skip_special_tokens=False)
        if _REPLACED in text:  # a part of a character
            key = backend.id_to_token(token) or ""
        else:
            plain = re.sub("[ \t\r\n]+", " ", letters.normalize_str(text))
            key = (plain if plain == " " else ends.normalize_str(plain)) or text
        result[token] = classes.setdefault(key, len(classes))
    return result
