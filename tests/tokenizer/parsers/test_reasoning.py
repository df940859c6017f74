"""Reasoning apart from the answer, in every style; and the hard limit on its tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_lm.errors import RequestError
from mlx_lm.tokenizer.parsers import (
    FORMATS,
    STYLES,
    Parsed,
    ParserChoice,
    StreamParser,
    TextDelta,
    TextWasReasoning,
    ThinkingBudget,
    parse_complete,
)

THINK = ParserChoice(STYLES["think"], FORMATS["json_tools"])
CALL = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'


@pytest.mark.parametrize("name", sorted(set(STYLES) - {"harmony", "muse_spark"}))
def test_styles(name: str) -> None:
    style = STYLES[name]
    picked = ParserChoice(style)
    text = f"{style.start}\nFirst < second.\n\nThen.\n{style.end}\n\nThe answer is </b>.\n"
    assert parse_complete(text, picked) == Parsed("First < second.\n\nThen.", "The answer is </b>.\n")
    inside = text.removeprefix(style.start)
    assert parse_complete(inside, picked, in_reasoning=True) == parse_complete(text, picked)
    assert parse_complete(text, picked, in_reasoning=True) == parse_complete(text, picked)
    assert parse_complete(f"{style.start}\n{style.end}\n\nA", picked) == Parsed(None, "A")


def test_reasoning_without_end() -> None:
    assert parse_complete("<think>\nso far <", THINK) == Parsed("so far <", "")
    assert parse_complete("so far </thi", THINK, in_reasoning=True) == Parsed("so far </thi", "")


def test_reasoning_that_was_never_opened() -> None:
    parser = StreamParser(THINK)
    assert parser.feed("I think.\n</think>\n\nAnswer")[1:] == [TextWasReasoning(), TextDelta("Answer")]
    assert parse_complete("I think.\n</think>\n\nAnswer", THINK) == Parsed("I think.", "Answer")
    assert parse_complete("</think>\n\nAnswer", THINK) == Parsed(None, "Answer")
    assert parse_complete("<think>a</think>b</think>c", THINK) == Parsed("a", "b</think>c")


def test_interleaved_reasoning() -> None:
    text = f"<think>one</think>A\n\n<think>two</think>\n\nB{CALL}<think>three</think>"
    parsed = parse_complete(text, THINK)
    assert (parsed.reasoning, parsed.content) == ("one\n\ntwo\n\nthree", "A\n\n\n\nB")
    assert len(parsed.tool_calls) == 1


def test_calls_inside_reasoning() -> None:
    """Markup that prose can contain is no call there; tokens that only begin calls are."""
    assert parse_complete(f"<think>I write {CALL}", THINK) == Parsed(f"I write {CALL}", "")
    kimi = ParserChoice(STYLES["think"], FORMATS["kimi_k2"])
    call = "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    parsed = parse_complete(f"<think>I call {call}<|tool_calls_section_end|>", kimi)
    assert parsed.reasoning == "I call" and [c.name for c in parsed.tool_calls] == ["f"]
    broken = "<think>a <|tool_calls_section_begin|> b</think>c"
    assert parse_complete(broken, kimi) == Parsed("a <|tool_calls_section_begin|> b", "c")


# -- the budget: 1 opens, 2 closes


def run(budget: ThinkingBudget, model: list[int]) -> list[int]:
    """The tokens of a request whose model wants to write `model`."""
    out: list[int] = []
    while budget.forced is not None:
        out.append(budget.forced[0])
        budget.advance(budget.forced[0])
    for token in model:
        out.append(token)
        forced = budget.advance(token)
        while forced is not None:
            out.append(forced[0])
            forced = budget.advance(forced[0])
    return out


def test_budget() -> None:
    assert run(ThinkingBudget([1], [2], 3), [9, 1, 5, 5, 2, 7]) == [9, 1, 5, 5, 2, 7]
    assert run(ThinkingBudget([1], [2], 3), [9, 1, 5, 5, 5, 5, 7]) == [9, 1, 5, 5, 5, 2, 5, 7]
    assert run(ThinkingBudget([1], [2], 2, [8, 2]), [1, 5, 5]) == [1, 5, 5, 8, 2]
    assert run(ThinkingBudget([1], [2], 0), [1]) == [1, 2]
    assert run(ThinkingBudget([1], [2], 0, inside=True), [7]) == [2, 7]
    assert run(ThinkingBudget([1], [2], 2), [5, 5, 5, 5]) == [5, 5, 5, 5]
    assert run(ThinkingBudget([1], [2], 2), [1, 5, 2, 7, 1, 5, 5]) == [1, 5, 2, 7, 1, 5, 2, 5]


def test_budget_lets_the_model_finish_its_own_end() -> None:
    budget = ThinkingBudget([1], [2, 3], 2, inside=True)
    assert budget.advance(5) is None and budget.advance(2) == (3,)
    assert budget.advance(3) is None and not budget.inside and budget.used == 1
    harmony = ThinkingBudget([1], [2, 3], 2, [9, 2, 3, 7, 7], inside=True)
    assert harmony.advance(5) is None and harmony.advance(2) == (3, 7, 7)


def test_budget_copies_and_errors() -> None:
    budget = ThinkingBudget([1], [2], 2, inside=True)
    other = budget.copy()
    assert budget.advance(5) is None and budget.advance(5) == (2,)
    assert (budget.used, other.used, other.forced) == (2, 0, None)
    with pytest.raises(RequestError, match="asked for 2"):
        budget.advance(7)
    for arguments in (([1], [2], -1), ([1], [], 3), ([1], [2], 3, [4, 4])):
        with pytest.raises(RequestError):
            ThinkingBudget(*arguments)  # type: ignore[arg-type]


@given(
    model=st.lists(st.integers(1, 6), max_size=30),
    limit=st.integers(0, 6),
    inside=st.booleans(),
    end=st.sampled_from([[2], [2, 3], [2, 2, 4]]),
)
def test_budget_is_hard(model: list[int], limit: int, inside: bool, end: list[int]) -> None:
    budget = ThinkingBudget([1], end, limit, [6, *end], inside=inside)
    out = run(budget, model)
    thought, open_, recent = 0, inside, []
    for token in out:
        recent.append(token)
        if open_:
            thought += 1
            if recent[-len(end) :] == end:
                open_, recent = False, []
                thought -= len(end)
        elif token == 1:
            open_, recent = True, []
    assert budget.used <= limit and budget.inside == open_
    assert thought <= limit + out.count(6)  # forced words before the end marker are not the model's
