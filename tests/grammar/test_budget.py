"""Structures that close within a budget, and structures after reasoning."""

from typing import Any, Literal

import numpy as np
import pydantic
import pytest
from random_model import closing_tokens, random_output

from mlx_lm.errors import GrammarError
from mlx_lm.grammar import CFG, JsonSchema, Regex, ThinkingConstraint, compile_constraint, mask_tokens, within_budget
from mlx_lm.grammar.closing import byte_matcher, byte_vocabulary, shortest_close
from mlx_lm.grammar.compiler import grammar_text


class Person(pydantic.BaseModel):
    name: str
    city: Literal["Paris", "London"]
    tags: list[str]


BLOCKS = 'start: "begin" stmt+ "end"\nstmt: "x=" /[a-z]+/ ";" | start'
CASES = [
    (Person, (60, 110)),
    (list[Person], (8, 90)),
    (CFG('start: term (("+"|"-") term)*\nterm: /[0-9]+/ | "(" start ")"'), (3, 25)),
    (CFG(BLOCKS), (30, 60)),
    (int, (2,)),
    (str, (4, 20)),
    (JsonSchema({}), (4, 40)),
    (Regex("[a-z]{10,40}!"), (25, 60)),
]


@pytest.mark.parametrize(("spec", "budgets"), CASES, ids=lambda x: str(x)[:40])
def test_closes_in_time(tokenizer: Any, spec: Any, budgets: tuple[int, ...]):
    grammar = compile_constraint(spec, tokenizer)
    for budget in budgets:
        for seed in range(3):
            rng = np.random.default_rng(seed)
            constraint = within_budget(grammar, budget)
            tokens, finished = random_output(constraint, grammar.ends, rng, frozenset(), budget)
            assert finished and len(tokens) <= budget, tokenizer.decode(tokens)
            assert grammar.start().validate([*tokens, tokenizer.eos_token_id]) == len(tokens) + 1


def test_far_from_the_limit_the_grammar_decides_alone(tokenizer: Any):
    grammar = compile_constraint(Person, tokenizer)
    far, free = within_budget(grammar, 10_000), grammar.start()
    for text in ('{"name":', '"Ada'):
        for token in tokenizer.encode(text):
            far.accept(token)
            free.accept(token)
        assert far.mask().tobytes() == free.mask().tobytes()


def test_text_goes_on_until_the_budget_is_spent(tokenizer: Any):
    grammar = compile_constraint(Person, tokenizer)
    constraint = within_budget(grammar, 120)
    letter = tokenizer.encode("q")[0]
    for token in tokenizer.encode('{"name":"'):
        constraint.accept(token)
    count = 0
    while (constraint.mask()[letter >> 5] >> (letter & 31)) & 1:
        constraint.accept(letter)
        count += 1
    assert count > 30
    rest, finished = random_output(constraint, grammar.ends, np.random.default_rng(0), frozenset(), 120)
    assert finished and count + len(rest) < 120


def test_budgets_that_cannot_be_met(tokenizer: Any):
    for spec, budget in ((Person, 5), (Regex("a{100}"), 20), (CFG("start: <think>"), 50)):
        with pytest.raises(GrammarError):
            within_budget(compile_constraint(spec, tokenizer), budget)


@pytest.mark.parametrize(
    ("spec", "way"),
    [(int, b"0"), (str, b'""'), (list[Person], b"[]"), (dict, b"{}"), (CFG(BLOCKS), b"beginx=a;end"),
     (Regex("[0-9]+x"), b"0x")],
)  # fmt: skip
def test_the_shortest_way_out(spec: Any, way: bytes):
    assert shortest_close(byte_matcher(byte_vocabulary(), grammar_text(spec))) == way


@pytest.fixture
def thinking(tokenizer: Any) -> Any:
    grammar = compile_constraint(int, tokenizer)

    def make(**options: Any) -> ThinkingConstraint:
        marks = {"start": tokenizer.think_start_tokens, "end": tokenizer.think_end_tokens}
        gaps = tokenizer.encode("\n")
        base = {"vocabulary": grammar.vocabulary.vocab_size, "ends": grammar.ends, "gaps": gaps}
        return ThinkingConstraint(grammar.start(), **{**marks, **base, **options})

    return make


def test_answers_come_after_the_reasoning(tokenizer: Any, thinking: Any):
    constraint = thinking(inside=True)
    for token in tokenizer.encode('hm, 3 or "x"?'):
        constraint.accept(token)
    assert constraint.thinking and not constraint.complete
    assert not set(mask_tokens(constraint.mask()).tolist()) & tokenizer.eos_token_ids
    for token in tokenizer.encode("</think>\n42"):
        constraint.accept(token)
    assert constraint.complete and not constraint.thinking
    with pytest.raises(GrammarError):
        constraint.accept(tokenizer.encode("x")[0])


def test_a_model_may_open_its_reasoning_or_answer(tokenizer: Any, thinking: Any):
    opened = thinking()
    assert opened.validate(tokenizer.encode("<think>3?</think>\n42")) == len(tokenizer.encode("<think>3?</think>\n42"))
    assert opened.validate(tokenizer.encode("42")) == len(tokenizer.encode("42"))
    assert opened.validate(tokenizer.encode("no")) == 0
    assert opened.validate(tokenizer.encode("42<think>")) == len(tokenizer.encode("42"))


def test_reasoning_has_a_limit(tokenizer: Any, thinking: Any):
    constraint = thinking(inside=True, limit=3)
    for token in tokenizer.encode("abcdef")[:3]:
        constraint.accept(token)
    assert constraint.forced() == list(tokenizer.think_end_tokens)
    assert mask_tokens(constraint.mask()).tolist() == list(tokenizer.think_end_tokens)


def test_markers_of_several_tokens(tokenizer: Any, thinking: Any):
    end = tokenizer.encode("[/T]")
    constraint = thinking(inside=True, end=end, start=())
    for token in [*tokenizer.encode("a[/"), *end, *tokenizer.encode("7")]:
        constraint.accept(token)
    assert constraint.complete


def test_random_reasoning_then_an_answer(tokenizer: Any, thinking: Any):
    for seed in range(10):
        constraint = thinking(limit=8)
        liked = closing_tokens(compile_constraint(int, tokenizer).vocabulary)
        ends = frozenset(tokenizer.eos_token_ids)
        tokens, finished = random_output(constraint, ends, np.random.default_rng(seed), liked, 200)
        if finished:
            int(tokenizer.decode(tokens).rpartition("</think>")[2])
