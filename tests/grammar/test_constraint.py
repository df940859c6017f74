"""The contract of `Constraint`: masks, end tokens, rollback, copies, drafts, forced tokens."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_lm.errors import GrammarError
from mlx_lm.grammar import (
    CFG,
    Choice,
    Constraint,
    JsonSchema,
    Regex,
    ThinkingConstraint,
    allows,
    compile_constraint,
    mask_tokens,
    within_budget,
)

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}, "tags": {"type": "array"}},
    "required": ["name", "age"],
}
SPECS = [
    JsonSchema(PERSON),
    JsonSchema({"anyOf": [{"const": "x"}, {"type": "array", "items": {"type": "boolean"}}]}, compact=True),
    Regex(r"[ab]{2,5}-\d+"),
    Choice(["yes", "yes please", "no"]),
    CFG('start: "(" start ")" | "x" | start "+" "x"'),
    int,
    bool,
]
LOOSE = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def make(tokenizer: Any, which: int, kind: str) -> Constraint:
    grammar = compile_constraint(SPECS[which], tokenizer)
    if kind == "budget":
        return within_budget(grammar, 30)
    if kind == "thinking":
        marks = {"start": tokenizer.think_start_tokens, "end": tokenizer.think_end_tokens}
        size = grammar.vocabulary.vocab_size
        return ThinkingConstraint(grammar.start(), **marks, vocabulary=size, ends=grammar.ends, limit=4)
    return grammar.start()


def walk(constraint: Constraint, seeds: list[int]) -> list[int]:
    """Accepts an allowed token for each seed, as far as the text goes on."""
    tokens: list[int] = []
    for seed in seeds:
        allowed = mask_tokens(constraint.mask())
        token = int(allowed[seed % len(allowed)])
        constraint.accept(token)
        tokens.append(token)
    return tokens


def state(constraint: Constraint) -> tuple[Any, ...]:
    return constraint.complete, constraint.done, constraint.mask().tobytes(), constraint.forced()


CASES = [(which, kind) for which in range(len(SPECS)) for kind in ("plain", "budget", "thinking")]


@pytest.mark.parametrize(("which", "kind"), CASES)
@given(seeds=st.lists(st.integers(0, 10_000), max_size=25), back=st.integers(0, 25))
@LOOSE
def test_rollback_is_a_replay(tokenizer: Any, which: int, kind: str, seeds: list[int], back: int):
    moved, replayed = make(tokenizer, which, kind), make(tokenizer, which, kind)
    tokens = walk(moved, seeds)
    back = min(back, len(tokens))
    state(moved)
    moved.rollback(back)
    for token in tokens[: len(tokens) - back]:
        replayed.accept(token)
    assert state(moved) == state(replayed)


@pytest.mark.parametrize(("which", "kind"), CASES)
@given(seeds=st.lists(st.integers(0, 10_000), max_size=12), draft=st.lists(st.integers(0, 10_000), max_size=8))
@LOOSE
def test_validate_is_an_accept_loop(tokenizer: Any, which: int, kind: str, seeds: list[int], draft: list[int]):
    constraint = make(tokenizer, which, kind)
    walk(constraint, seeds)
    ahead = walk(constraint.copy(), [d for d in draft if d % 5])
    tokens = [d % 604 if d % 5 == 0 else ahead.pop(0) for d in draft]
    before = state(constraint)
    counted = constraint.validate(tokens)
    assert state(constraint) == before
    taken = 0
    for token in tokens:
        if not allows(constraint.mask(), token):
            with pytest.raises(GrammarError):
                constraint.accept(token)
            break
        constraint.accept(token)
        taken += 1
    assert counted == taken


@pytest.mark.parametrize(("which", "kind"), CASES)
@given(seeds=st.lists(st.integers(0, 10_000), max_size=12), more=st.lists(st.integers(0, 10_000), max_size=6))
@LOOSE
def test_copies_are_independent(tokenizer: Any, which: int, kind: str, seeds: list[int], more: list[int]):
    constraint = make(tokenizer, which, kind)
    walk(constraint, seeds)
    before, other = state(constraint), constraint.copy()
    assert state(other) == before
    walk(other, more)
    assert state(constraint) == before


@pytest.mark.parametrize("which", range(len(SPECS)))
def test_end_tokens_exactly_where_it_may_end(tokenizer: Any, which: int):
    constraint = make(tokenizer, which, "plain")
    rng = np.random.default_rng(which)
    for _ in range(40):
        mask = constraint.mask()
        for end in tokenizer.eos_token_ids:
            assert allows(mask, end) == constraint.complete
        constraint.accept(int(rng.choice(mask_tokens(mask))))
        if constraint.done:
            break
    assert constraint.complete or not any(allows(constraint.mask(), end) for end in tokenizer.eos_token_ids)


def test_after_an_end_token_only_end_tokens(tokenizer: Any):
    constraint = compile_constraint(int, tokenizer).start()
    constraint.accept(tokenizer.encode("4")[0])
    end = tokenizer.eos_token_id
    constraint.accept(end)
    assert constraint.done and constraint.complete and constraint.forced() == []
    assert set(mask_tokens(constraint.mask()).tolist()) == tokenizer.eos_token_ids
    constraint.accept(end)
    constraint.rollback(2)
    assert not constraint.done
    constraint.rollback(1)
    with pytest.raises(GrammarError):
        constraint.rollback(1)


def test_an_end_token_that_is_text_ends_only_complete_output(tokenizer: Any):
    comma = tokenizer.encode(",")[0]
    grammar = compile_constraint(Regex("a,b|a"), tokenizer, end_ids=frozenset({comma}))
    constraint = grammar.start()
    assert not allows(constraint.mask(), comma)
    constraint.accept(tokenizer.encode("a")[0])
    assert set(mask_tokens(constraint.mask()).tolist()) == {comma}


def test_special_tokens_are_no_text(tokenizer: Any):
    constraint = compile_constraint(JsonSchema({"type": "string"}), tokenizer).start()
    for text in ('"', "<", "t"):
        token = tokenizer.encode(text)[0]
        constraint.accept(token)
        allowed = set(mask_tokens(constraint.mask()).tolist())
        assert not allowed & {tokenizer.convert_tokens_to_ids(x) for x in ("<think>", "</think>", "<end>", "<turn>")}


def test_forced_tokens_are_those_of_the_tokenizer(tokenizer: Any):
    constraint = compile_constraint(JsonSchema(PERSON, compact=True), tokenizer).start()
    forced = constraint.forced()
    assert tokenizer.decode(forced).startswith('{"name')
    assert forced == tokenizer.encode('{"name":"')[: len(forced)]
    assert constraint.validate(forced) == len(forced)
    for token in forced:
        constraint.accept(token)


def test_refused_tokens_do_not_move(tokenizer: Any):
    constraint = compile_constraint(bool, tokenizer).start()
    before = state(constraint)
    for token in (tokenizer.encode("x")[0], -1, 10**6, tokenizer.eos_token_id):
        with pytest.raises(GrammarError):
            constraint.accept(token)
    assert state(constraint) == before


def test_masks_belong_to_the_caller(tokenizer: Any):
    constraint = compile_constraint(bool, tokenizer).start()
    constraint.mask()[:] = 0
    assert constraint.mask().any()
