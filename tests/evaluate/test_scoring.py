"""Scores of continuations against each text by itself, without states."""

import random

import mlx.core as mx
import pytest
from tiny_models import MODELS, tiny

from mlx_lm.errors import RequestError
from mlx_lm.evaluate.scoring import Score, score_continuations


def plain(model, context, continuation) -> Score:
    tokens = [*context, *continuation]
    logits = model(mx.array([tokens[:-1]]))[0].astype(mx.float32)[len(context) - 1 :]
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logprobs, mx.array(continuation)[:, None], axis=-1).sum().item()
    return Score(float(chosen), mx.argmax(logits, axis=-1).tolist() == list(continuation))


def check(model, pairs, **options) -> None:
    found = score_continuations(model, pairs, **options)
    for (context, continuation), score in zip(pairs, found, strict=True):
        expected = plain(model, context, continuation)
        assert score.logprob == pytest.approx(expected.logprob, abs=2e-4)
        assert score.greedy == expected.greedy


def questions(vocabulary: int, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Questions that share examples, with choices of one token and of several; texts that share nothing."""
    chance = random.Random(seed)

    def some(n: int) -> list[int]:
        return [chance.randrange(vocabulary) for _ in range(n)]

    examples, pairs = some(40), []
    for _ in range(3):
        question = examples + some(chance.randrange(5, 30))
        pairs += [(question, some(1)) for _ in range(4)] + [(question, some(chance.randrange(2, 6))) for _ in range(3)]
    pairs += [(some(chance.randrange(1, 20)), some(chance.randrange(1, 8))) for _ in range(6)]
    pairs += [(examples, some(2)), (examples[:20], examples[20:]), pairs[0]]
    chance.shuffle(pairs)
    return pairs


@pytest.mark.parametrize("kind", MODELS)
def test_equal_to_each_alone(kind: str) -> None:
    model, vocabulary = tiny(kind)
    check(model, questions(vocabulary), batch_size=4)


@pytest.mark.parametrize(("batch_size", "step"), [(1, 2048), (3, 7), (100, 16)])
def test_sizes_change_nothing(batch_size: int, step: int) -> None:
    model, vocabulary = tiny("full")
    check(model, questions(vocabulary, 1), batch_size=batch_size, prefill_step_size=step)


def test_greedy_continuations_are_known() -> None:
    model, vocabulary = tiny("full")
    context = [1, 2, 3]
    ids = list(context)
    for _ in range(4):
        ids.append(int(mx.argmax(model(mx.array([ids]))[0, -1]).item()))
    best, other = ids[3:], [*ids[3:-1], (ids[-1] + 1) % vocabulary]
    scores = score_continuations(model, [(context, best), (context, other)])
    assert [score.greedy for score in scores] == [True, False]


def test_shared_beginnings_are_computed_once() -> None:
    model, vocabulary = tiny("full")
    seen = []
    inner = type(model).hidden

    class Counting(type(model)):
        def hidden(self, ids, *args, **kwargs):
            seen.append(ids.size)
            return inner(self, ids, *args, **kwargs)

    model.__class__ = Counting
    chance = random.Random(2)
    question = [chance.randrange(vocabulary) for _ in range(200)]
    pairs = [(question, [token, 1, token]) for token in range(8)]
    score_continuations(model, pairs, batch_size=8)
    assert sum(seen) < 200 + 8 * 4
    seen.clear()
    score_continuations(model, [(question, [token]) for token in range(8)])
    assert sum(seen) == 200
    seen.clear()
    score_continuations(model, [*pairs, ([1], [2, 3]), (question[:3], [5, 6])])
    assert sum(seen) < 200 + 10 * 5


def test_long_contexts_lose_their_beginning() -> None:
    model, vocabulary = tiny("full")
    limit = model.context_length
    assert limit is not None
    chance = random.Random(3)
    text = [chance.randrange(vocabulary) for _ in range(limit + 30)]
    (score,) = score_continuations(model, [(text[:-3], text[-3:])])
    assert score.logprob == pytest.approx(plain(model, text[-limit - 1 : -3], text[-3:]).logprob, abs=1e-3)
    with pytest.raises(RequestError, match="context holds"):
        score_continuations(model, [([1], text)])


def test_empty_and_wrong() -> None:
    model, _ = tiny("full")
    assert score_continuations(model, []) == []
    assert score_continuations(model, [([1], [])]) == [Score(0.0, True)]
    with pytest.raises(RequestError, match="Pair 0 has an empty context"):
        score_continuations(model, [([], [1])])
    with pytest.raises(RequestError, match="batch_size=0"):
        score_continuations(model, [([1], [1])], batch_size=0)


def test_progress() -> None:
    model, vocabulary = tiny("full")
    seen: list[tuple[int, int]] = []
    pairs = questions(vocabulary)
    score_continuations(model, pairs, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(pairs), len(pairs)) and seen == sorted(seen)


def test_a_chain_of_beginnings_needs_no_deep_recursion() -> None:
    model, vocabulary = tiny("full")
    chance = random.Random(4)
    text = [chance.randrange(vocabulary) for _ in range(100)]
    pairs = [(text[:n], text[n : n + 1]) for n in range(1, 90)]
    check(model, pairs, batch_size=16)
