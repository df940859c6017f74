"""Samplers against their definitions in numpy, and values that must be refused."""

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lm.errors import RequestError
from mlx_lm.sampling import apply_min_p, apply_top_k, apply_top_p, apply_typical_p, apply_xtc, make_sampler

rows = st.lists(st.integers(-64, 64), min_size=2, max_size=40, unique=True).map(lambda v: [x / 8 for x in v])


def logprobs(values):
    x = mx.array(values)[None]
    return x - mx.logsumexp(x)


def kept(result) -> set[int]:
    return {i for i, v in enumerate(np.array(result[0])) if v != -np.inf}


@settings(max_examples=100, deadline=None)
@given(values=rows, p=st.floats(0.01, 0.99))
def test_top_p_keeps_the_smallest_sufficient_set(values, p):
    probabilities = np.exp(np.array(logprobs(values)[0], np.float64))
    order = np.argsort(-probabilities)
    cumulative = np.cumsum(probabilities[order])
    if np.min(np.abs(cumulative - p)) < 1e-5:
        return  # on the edge, rounding decides
    count = int(np.searchsorted(cumulative, p)) + 1
    assert kept(apply_top_p(logprobs(values), p)) == set(order[:count].tolist())


@settings(max_examples=100, deadline=None)
@given(values=rows, k=st.integers(1, 60))
def test_top_k(values, k):
    assert kept(apply_top_k(logprobs(values), k)) == set(np.argsort(-np.array(values))[:k].tolist())


@settings(max_examples=100, deadline=None)
@given(values=rows, p=st.floats(0.001, 1.0), least=st.integers(1, 5))
def test_min_p(values, p, least):
    log = np.array(logprobs(values)[0], np.float64)
    threshold = log.max() + math.log(p)
    if np.min(np.abs(log - threshold)) < 1e-4 and p != 1.0:
        return
    result = kept(apply_min_p(logprobs(values), p, least))
    assert result >= set(np.argsort(-log)[:least].tolist())
    assert result == set(np.flatnonzero(log >= threshold - 1e-9).tolist()) | set(np.argsort(-log)[:least].tolist())


@settings(max_examples=50, deadline=None)
@given(values=rows, p=st.floats(0.05, 0.95))
def test_typical_p_keeps_what_is_nearest_the_mean_surprise(values, p):
    log = np.array(logprobs(values)[0], np.float64)
    probabilities = np.exp(log)
    distance = np.abs(-log - np.sum(-log * probabilities))
    order = np.argsort(distance)
    cumulative = np.cumsum(probabilities[order])
    if np.min(np.abs(cumulative - p)) < 1e-4 or np.min(np.diff(np.sort(distance)), initial=1) < 1e-4:
        return
    count = int(np.searchsorted(cumulative, p)) + 1
    assert kept(apply_typical_p(logprobs(values), p)) - {int(log.argmax())} <= set(order[:count].tolist())
    assert kept(apply_typical_p(logprobs(values), p)) >= set(order[:count].tolist())


def test_xtc_drops_all_but_the_least_likely_top_choice():
    x = logprobs([math.log(v) for v in (0.4, 0.3, 0.2, 0.05, 0.05)])
    assert kept(apply_xtc(x, 1.0, 0.1)) == {2, 3, 4}
    assert kept(apply_xtc(x, 1.0, 0.1, [0])) == {0, 2, 3, 4}
    assert kept(apply_xtc(x, 0.0, 0.1)) == {0, 1, 2, 3, 4}
    assert kept(apply_xtc(x, 1.0, 0.9)) == {0, 1, 2, 3, 4}  # nothing is above: nothing is dropped


def test_draws_follow_the_distribution():
    x = mx.broadcast_to(logprobs([math.log(v) for v in (0.5, 0.3, 0.2)]), (20_000, 3))
    mx.random.seed(0)
    shares = np.bincount(np.array(make_sampler(temp=1.0)(x)), minlength=3) / 20_000
    assert np.allclose(shares, [0.5, 0.3, 0.2], atol=0.02)
    cold = np.bincount(np.array(make_sampler(temp=0.5, seed=1)(x)), minlength=3) / 20_000
    assert np.allclose(cold, np.array([0.25, 0.09, 0.04]) / 0.38, atol=0.02)


def test_the_filters_never_leave_nothing():
    x = logprobs([0.0, 1.0, 2.0])
    for settings_ in ({"top_p": 1e-9}, {"min_p": 1.0}, {"top_k": 1}, {"typical_p": 1e-9}, {"top_k": 99}):
        assert 0 <= make_sampler(temp=1.0, seed=0, **settings_)(x).item() < 3


@pytest.mark.parametrize(
    "name,value",
    [
        ("temp", -1.0), ("temp", math.nan), ("temp", "hot"), ("temp", True), ("top_p", 1.5), ("top_p", math.nan),
        ("min_p", -0.1), ("min_p", math.nan), ("top_k", -2), ("xtc_threshold", 2), ("min_tokens_to_keep", 0),
    ],
)  # fmt: skip
def test_bad_values_are_refused(name, value):
    with pytest.raises(RequestError, match=name):
        make_sampler(**{"temp": 1.0, name: value})


def test_any_seed_is_a_seed():
    for seed in (0, -1, 2**64, 2**70):
        make_sampler(temp=1.0, seed=seed)(logprobs([0.0, 1.0])).item()
