"""Logits processors against their definitions."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_lm.errors import RequestError
from mlx_lm.sampling import make_logits_processors

HISTORY = mx.array([5, 1, 2, 1, 3])


def run(history=HISTORY, **settings):
    logits = mx.array([[-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]])
    for processor in make_logits_processors(**settings):
        logits = processor(history, logits)
    return np.array(logits[0]).tolist()


def test_each_penalty():
    assert run(repetition_penalty=2.0) == [-2.0, -2.0, 0.0, 0.5, 2.0, 1.5]
    assert run(presence_penalty=0.5) == [-2.0, -1.5, -0.5, 0.5, 2.0, 2.5]
    assert run(frequency_penalty=0.5) == [-2.0, -2.0, -0.5, 0.5, 2.0, 2.5]
    assert run(logit_bias={0: 10.0, 5: -1.0}) == [8.0, -1.0, 0.0, 1.0, 2.0, 2.0]


def test_context_sizes():
    assert run(repetition_penalty=2.0, repetition_context_size=2) == [-2.0, -2.0, 0.0, 0.5, 2.0, 3.0]
    assert run(frequency_penalty=1.0, frequency_context_size=0)[1] == -3.0  # 0: the whole history
    assert run(presence_penalty=1.0, presence_context_size=None)[5] == 2.0


def test_an_empty_history_changes_nothing():
    empty = mx.array([], mx.int32)
    assert run(empty, repetition_penalty=2.0, presence_penalty=1.0, frequency_penalty=1.0) == run()


def test_what_changes_nothing_makes_no_processor():
    assert make_logits_processors(repetition_penalty=1.0, presence_penalty=0, frequency_penalty=0.0) == []
    assert make_logits_processors(repetition_penalty=0.0, logit_bias={}) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"logit_bias": {2**63: 1.0}}, {"logit_bias": {-1: 1.0}}, {"logit_bias": {1: float("nan")}},
        {"logit_bias": {"1": 1.0}}, {"repetition_penalty": -1.0}, {"repetition_penalty": float("nan")},
        {"presence_penalty": float("inf")}, {"frequency_penalty": "x"},
        {"repetition_penalty": 1.1, "repetition_context_size": -5},
    ],
)  # fmt: skip
def test_bad_values_are_refused(settings):
    with pytest.raises(RequestError):
        make_logits_processors(**settings)


def test_ids_past_the_vocabulary_are_refused_when_it_is_known():
    with pytest.raises(RequestError, match="vocabulary has 6"):
        run(logit_bias={6: 1.0})
