"""The constraint of one answer: what it has to be, after which reasoning, within how many tokens.

This module knows tokenizers and grammars; it computes nothing with the model.
"""

from collections.abc import Sequence
from typing import Any

from ..errors import RequestError
from ..grammar import CompiledGrammar, Constraint, ThinkingConstraint, compile_constraint, within_budget
from ..tokenizer import TokenizerWrapper
from ..tokenizer.parsers.detect import prompt_opens_thinking

__all__ = ["answer_constraint"]

_FINAL = "<|channel|>final<|message|>"  # the header of a gpt-oss answer; what comes before is reasoning
_MAX_TAIL = 8


def answer_constraint(
    output_type: Any,
    tokenizer: TokenizerWrapper,
    prompt: Sequence[int],
    *,
    max_tokens: int | None = None,
    close_within_budget: bool = False,
    after_thinking: bool | None = None,
) -> Constraint:
    """A fresh constraint for the answer to `prompt` (token ids).

    Args:
        output_type: JsonSchema, Regex, Choice, CFG, a dict (JSON Schema), a Python type, or a function.
        max_tokens: the limit that `close_within_budget` keeps; reasoning gets at most half of it.
        after_thinking: the grammar begins after the model's reasoning. None: when the model has markers for it and the
            prompt has not closed them; True: also demands that there are markers; False: at once.

    Raises:
        GrammarError: see `compile_constraint` and `within_budget`.
        RequestError: the arguments do not go together.
    """
    if close_within_budget and (max_tokens is None or max_tokens < 1):
        raise RequestError("close_within_budget needs max_tokens.")
    grammar = compile_constraint(output_type, tokenizer)
    marks = None if after_thinking is False else _marks(tokenizer, prompt)
    if after_thinking and marks is None:
        raise RequestError("after_thinking: this model has no markers around its reasoning, or the prompt closed them.")
    if marks is None:
        return within_budget(grammar, max_tokens) if close_within_budget and max_tokens else grammar.start()
    start, end, inside = marks
    limit = max_tokens // 2 if close_within_budget and max_tokens else None
    return ThinkingConstraint(
        _answer(grammar, max_tokens, limit, len(start) + len(end) + 1),
        start=start,
        end=end,
        gaps=_gaps(tokenizer),
        ends=grammar.ends,
        vocabulary=grammar.vocabulary.vocab_size,
        inside=inside,
        limit=limit,
    )


def _answer(grammar: CompiledGrammar, max_tokens: int | None, limit: int | None, marks: int) -> Constraint:
    if max_tokens is None or limit is None:
        return grammar.start()
    return within_budget(grammar, max(max_tokens - limit - marks, 0))


def _marks(tokenizer: TokenizerWrapper, prompt: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...], bool] | None:
    """(opening marker, closing marker, whether the prompt ends inside reasoning); None without reasoning."""
    final = tuple(tokenizer.encode(_FINAL, add_special_tokens=False))
    if len(final) == 3:  # its parts are special tokens, and there are such channels
        return (), final, tuple(prompt[-len(final) :]) != final
    start, end = tokenizer.think_start_tokens, tokenizer.think_end_tokens
    if not start or not end:
        return None
    if prompt_opens_thinking(prompt, start, end):
        return (), end, True
    tail = tuple(prompt[-(len(end) + _MAX_TAIL) :])
    closed = any(tail[i : i + len(end)] == end for i in range(len(tail) - len(end) + 1))
    return None if closed else (start, end, False)


def _gaps(tokenizer: TokenizerWrapper) -> tuple[int, ...]:
    encoded = (tokenizer.encode(text, add_special_tokens=False) for text in ("\n", "\n\n"))
    return tuple(ids[0] for ids in encoded if len(ids) == 1)
