"""Output types end to end: alone, in batches, with speculation, cut off, and closed in time."""

import re
from functools import cache
from typing import Any, Literal

import pydantic
import pytest

from mlx_lm import batch_generate, generate, load, stream_generate
from mlx_lm.errors import GrammarError, IncompleteOutputError, RequestError
from mlx_lm.grammar import CFG, Choice, JsonSchema, Regex, parse_output

pytestmark = pytest.mark.real_model("smollm2")


class Character(pydantic.BaseModel):
    name: str
    age: int
    strength: Literal["low", "high"]


ARITHMETIC = """
?start: sum
?sum: product (("+" | "-") product)*
?product: atom (("*" | "/") atom)*
?atom: /[1-9][0-9]{0,2}/ | "(" sum ")"
"""


@cache
def smollm2() -> tuple[Any, Any]:
    model, tokenizer = load("smollm2")  # type: ignore[misc]
    return model, tokenizer


def ask(text: str) -> list[int]:
    return smollm2()[1].apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)


def answer(text: str, kind: Any, max_tokens: int = 80, **options: Any) -> str:
    return generate(*smollm2(), ask(text), max_tokens=max_tokens, output_type=kind, **options)


def test_the_examples():
    assert isinstance(parse_output(answer("How many legs has a dog?", int), int), int)
    character = parse_output(answer("Invent a game character.", Character), Character)
    assert character.name and character.strength in ("low", "high")
    assert answer("Where is the Eiffel tower?", Literal["Paris", "London"]) in ("Paris", "London")
    assert re.fullmatch(r"\d{3}-\d{2}-\d{4}", answer("Write a number.", Regex(r"\d{3}-\d{2}-\d{4}")))
    assert answer("Is the sky blue?", Choice(["yes", "no"])) in ("yes", "no")
    text = answer("Write a sum.", CFG(ARITHMETIC), 30, close_within_budget=True)
    compile(text, "sum", "eval")


def test_a_structure_that_ends_has_reason_stop():
    responses = list(stream_generate(*smollm2(), ask("A character"), max_tokens=80, output_type=Character))
    assert responses[-1].finish_reason == "stop"
    Character.model_validate_json("".join(response.text for response in responses))


def test_a_cap_says_length_and_the_value_is_a_typed_error():
    responses = list(stream_generate(*smollm2(), ask("A character"), max_tokens=6, output_type=Character))
    text = "".join(response.text for response in responses)
    assert responses[-1].finish_reason == "length"
    with pytest.raises(IncompleteOutputError) as caught:
        parse_output(text, Character)
    assert caught.value.text == text


@pytest.mark.parametrize("budget", [24, 40])
def test_a_budget_closes_the_structure(budget: int):
    prompt = ask("Describe a hero with a very long name.")
    options = {"max_tokens": budget, "output_type": Character, "close_within_budget": True}
    responses = list(stream_generate(*smollm2(), prompt, **options))
    assert responses[-1].finish_reason == "stop"
    Character.model_validate_json("".join(response.text for response in responses))


def test_batches_and_speculation_write_what_one_alone_writes():
    kinds = [int, Character, None, Choice(["red", "green"])]
    prompts = [ask(text) for text in ("How many?", "A character", "Hi", "A colour")]
    alone = [generate(*smollm2(), p, max_tokens=40, output_type=k) for p, k in zip(prompts, kinds, strict=True)]
    assert batch_generate(*smollm2(), prompts, max_tokens=40, output_type=kinds).texts == alone
    guessed = generate(*smollm2(), prompts[1], max_tokens=40, output_type=Character, prompt_lookup_num_tokens=4)
    assert guessed == alone[1]


def test_what_does_not_go_together_is_refused():
    with pytest.raises(RequestError, match="max_tokens"):
        answer("x", int, -1, close_within_budget=True)
    with pytest.raises(RequestError, match="output_type"):
        generate(*smollm2(), ask("x"), max_tokens=3, close_within_budget=True)
    with pytest.raises(RequestError, match="reasoning"):
        answer("x", int, 3, after_thinking=True)
    with pytest.raises(GrammarError, match="contains"):
        answer("x", JsonSchema({"contains": {}}), 3)
    with pytest.raises(GrammarError, match="shortest"):
        answer("x", Character, 5, close_within_budget=True)
    with pytest.raises(RequestError, match="one for each"):
        batch_generate(*smollm2(), [ask("x")], max_tokens=3, output_type=[int, int])
