"""Families that transformers does not implement, against the float64 references of this folder, four ways."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from float64.cases import CASES
from ways import batched, check, in_pieces

from mlx_lm.models import build_model


@cache
def _expected(name: str) -> tuple[mx.array, mx.array, dict[str, Any]]:
    case = CASES[name]
    logits, tensors = case.run()
    return mx.array(case.ids)[None], mx.array(logits.astype(np.float32))[None], tensors


def _build(name: str) -> Any:
    weights = {key: mx.array(value) for key, value in _expected(name)[2].items()}
    return build_model(CASES[name].config, weights)


@pytest.mark.parametrize("name", CASES)
def test_whole_prompt(name: str) -> None:
    ids, expected, _ = _expected(name)
    model = _build(name)
    assert 0.3 < mx.std(expected).item() < 4
    check(model(ids), expected)
    check(model(ids, model.make_cache()), expected)


@pytest.mark.parametrize("name", CASES)
def test_chunked_and_stepwise(name: str) -> None:
    ids, expected, _ = _expected(name)
    model = _build(name)
    check(in_pieces(model, ids, [7, 5, 1, 9]), expected)
    check(in_pieces(model, ids, [2]), expected)


@pytest.mark.parametrize("name", CASES)
def test_batch_of_different_lengths(name: str) -> None:
    ids, expected, _ = _expected(name)
    for logits, wanted in batched(_build(name), ids, expected):
        check(logits, wanted)


@pytest.mark.parametrize("name", CASES)
def test_own_layout_is_read_again(name: str) -> None:
    """What a model saves, it loads: the rules leave their own output alone."""
    from mlx.utils import tree_flatten

    ids, expected, _ = _expected(name)
    saved = dict(tree_flatten(_build(name).parameters()))
    check(build_model(CASES[name].config, saved)(ids), expected)
