"""Answers of an evaluation: equal to each alone, cut at stop strings, without reasoning."""

from typing import Any

import mlx.core as mx
import pytest
from tiny_models import plain_greedy, prompts, tiny

from mlx_lm.errors import ContextLengthError, RequestError
from mlx_lm.evaluate.answers import Question, write_answers
from mlx_lm.sample_utils import make_sampler
from mlx_lm.tokenizer.parsers import STYLES, ParserChoice

THINK = next(style for style in STYLES.values() if style.start == "<think>")


class Letters:
    """A tokenizer whose token `i` has the text `names.get(i, a letter)`."""

    def __init__(self, names: dict[int, str] | None = None, ends: tuple[int, ...] = (), *, thinks: bool = False):
        self.names = names or {}
        self.eos_token_ids = set(ends)
        self.parsers = ParserChoice(THINK if thinks else None)
        self.think_start_tokens = (0,) if thinks else None
        self.think_end_tokens = (1,) if thinks else None

    def text(self, token: int) -> str:
        return self.names.get(token, chr(97 + token % 26))

    @property
    def detokenizer(self) -> Any:
        class Detokenizer:
            last_segment = ""

            def add_token(_, token: int) -> None:
                _.last_segment = self.text(token)

            def finalize(_) -> None:
                _.last_segment = ""

        return Detokenizer()


def scripted(text: list[int], width: int = 32) -> Any:
    """A sampler that writes these tokens in order."""
    rest = iter(text)
    return lambda logprobs: mx.array([next(rest)])


@pytest.mark.parametrize("kind", ["full", "hybrid"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_equal_to_each_alone(kind: str, batch_size: int) -> None:
    model, vocabulary = tiny(kind)
    shared = prompts(vocabulary, [40])[0]
    many = [shared + p for p in prompts(vocabulary, [3, 9, 5, 9])] + prompts(vocabulary, [1, 12], seed=1)
    limits = [4, 6, 3, 1, 5, 2]
    tokenizer = Letters()
    told: list[tuple[int, int]] = []
    found = write_answers(
        model,
        tokenizer,
        [Question(tuple(p), n) for p, n in zip(many, limits, strict=True)],
        batch_size=batch_size,
        progress=lambda done, total: told.append((done, total)),
    )
    expected = [plain_greedy(model, p, n) for p, n in zip(many, limits, strict=True)]
    assert found == ["".join(map(tokenizer.text, ids)) for ids in expected]
    assert told == [(n, 6) for n in range(1, 7)]


def answer(tokenizer: Letters, tokens: list[int], *stop: str, prompt: tuple[int, ...] = (2, 3)) -> str:
    model, _ = tiny("full")
    question = Question(prompt, len(tokens), stop, scripted(tokens))
    return write_answers(model, tokenizer, [question])[0]


def test_stop_strings_across_tokens() -> None:
    assert answer(Letters(), [2, 3, 4, 5, 6], "ef") == "cd"
    assert answer(Letters(), [2, 3, 4, 5, 6], "fg", "de") == "c"
    assert answer(Letters(), [2, 3], "dd", "") == "cd"


def test_end_tokens_have_no_text() -> None:
    assert answer(Letters(ends=(9,)), [2, 3, 9, 4]) == "cd"


def test_reasoning_is_left_out_and_its_stop_strings_do_not_stop() -> None:
    names = {0: "<think>", 1: "</think>", 5: "\n\n"}
    thinking = Letters(names, thinks=True)
    assert answer(thinking, [0, 2, 5, 3, 1, 5, 7, 8, 5, 9], "\n\n") == "hi"
    assert answer(thinking, [0, 2, 5, 3, 1, 7, 8, 5, 9], "\n\n") == "hi"
    assert answer(thinking, [2, 5, 3, 1, 7, 8], prompt=(2, 0)) == "hi"
    assert answer(thinking, [0, 2, 5, 3, 1, 5, 7, 8]) == "hi"
    assert answer(Letters(names), [0, 2, 1, 7]) == "<think>c</think>h"


def test_an_answer_does_not_depend_on_its_batch() -> None:
    model, vocabulary = tiny("full")
    many = prompts(vocabulary, [5, 8, 3])

    def run(batch_size: int) -> list[str]:
        questions = [Question(tuple(p), 6, (), make_sampler(1.0, seed=n)) for n, p in enumerate(many)]
        return write_answers(model, Letters(), questions, batch_size=batch_size)

    assert run(1) == run(3)


def test_wrong_questions_are_refused() -> None:
    model, _ = tiny("full")
    with pytest.raises(RequestError):
        write_answers(model, Letters(), [Question(())])
    with pytest.raises(ContextLengthError):
        write_answers(model, Letters(), [Question((1,) * (model.context_length + 1))])
    with pytest.raises(RequestError):
        write_answers(model, Letters(), [Question((1,), 0)])
    assert write_answers(model, Letters(), []) == []
