"""Where the grammar of an answer begins: at once, or after reasoning that the prompt or the model opened."""

from typing import Any

import pytest

from mlx_lm.engine.structured import answer_constraint
from mlx_lm.errors import RequestError
from mlx_lm.grammar import ThinkingConstraint


def takes(tokenizer: Any, constraint: Any, text: str) -> bool:
    tokens = tokenizer.encode(text)
    return constraint.validate(tokens) == len(tokens)


def test_the_prompt_opened_the_reasoning(tokenizer: Any):
    constraint = answer_constraint(int, tokenizer, tokenizer.encode("How many?<think>\n"))
    assert isinstance(constraint, ThinkingConstraint)
    assert takes(tokenizer, constraint, "two, I think</think>\n2")
    assert not takes(tokenizer, constraint, "two</think>two")


def test_the_prompt_closed_the_reasoning(tokenizer: Any):
    prompt = tokenizer.encode("How many?<think>\n</think>\n")
    assert not isinstance(answer_constraint(int, tokenizer, prompt), ThinkingConstraint)
    with pytest.raises(RequestError):
        answer_constraint(int, tokenizer, prompt, after_thinking=True)


def test_the_model_may_open_it(tokenizer: Any):
    constraint = answer_constraint(int, tokenizer, tokenizer.encode("How many?"))
    assert takes(tokenizer, constraint, "<think>hm</think>2")
    assert takes(tokenizer, constraint, "2")
    assert not takes(tokenizer, constraint, "hm")


def test_at_once(tokenizer: Any):
    prompt = tokenizer.encode("How many?<think>\n")
    constraint = answer_constraint(int, tokenizer, prompt, after_thinking=False)
    assert takes(tokenizer, constraint, "2") and not takes(tokenizer, constraint, "<think>")


def test_a_budget_holds_for_reasoning_and_answer(tokenizer: Any):
    prompt = tokenizer.encode("Who?<think>")
    constraint = answer_constraint({"type": "array"}, tokenizer, prompt, max_tokens=40, close_within_budget=True)
    word = tokenizer.encode("q")[0]
    count = 0
    while not constraint.done and count < 60:
        forced = constraint.forced()
        mask = constraint.mask()
        free = not forced and (int(mask[word >> 5]) >> (word & 31)) & 1
        quote = tokenizer.encode('["')
        token = forced[0] if forced else word if free else next((t for t in quote if constraint.validate([t])), None)
        if token is None:
            bits = [i for i in range(len(mask) * 32) if (int(mask[i >> 5]) >> (i & 31)) & 1]
            token = bits[0]
        constraint.accept(token)
        count += 1
    assert constraint.complete and count <= 40
