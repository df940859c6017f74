"""Token ids folded together by what their texts look like."""

from __future__ import annotations

import pytest

from mlx_lm.tokenizer.folded import folded_ids

tokenizers = pytest.importorskip("tokenizers")


def _backend(tokens: list[str]) -> object:
    model = tokenizers.models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=tokens[0])
    return tokenizers.Tokenizer(model)


def test_case_accents_and_white_space_do_not_count() -> None:
    tokens = ["<unk>", "The", " the", "THE ", "caf\u00e9", "cafe\u0301", "CAFE", "\ufb01", "fi", "x"]
    assert folded_ids(_backend(tokens), len(tokens)) == [0, 1, 1, 1, 2, 2, 2, 3, 3, 4]


def test_spaces_alone_are_one_class() -> None:
    tokens = ["<unk>", " ", "\n", "\t \n", "a  b", "A\nb"]
    assert folded_ids(_backend(tokens), len(tokens)) == [0, 1, 1, 1, 2, 2]


def test_parts_of_characters_stay_apart() -> None:
    """A byte that is no character has no text of its own."""
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    tokens = sorted(letters)
    backend = _backend(tokens)
    backend.decoder = tokenizers.decoders.ByteLevel()  # type: ignore[attr-defined]
    classes = dict(zip(tokens, folded_ids(backend, 256), strict=True))
    assert classes["A"] == classes["a"] != classes["b"]
    parts = [c for c in tokens if "\ufffd" in backend.decode([tokens.index(c)])]  # type: ignore[attr-defined]
    assert len(parts) == len({classes[c] for c in parts}) == 128


def test_ids_beyond_the_tokenizer() -> None:
    assert folded_ids(_backend(["<unk>", "a"]), 4) == [0, 1, 0, 0]
