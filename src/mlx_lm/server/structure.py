"""What an answer must be, as a constraint on its tokens: an output format, or calls of tools.

Contract: what a request asks for is enforced or refused by name, never ignored. Does no MLX work; safe in any thread.
Compiling a grammar is bounded work, kept with the tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..engine.structured import answer_constraint
from ..errors import GrammarError, RequestError, UnsupportedError
from ..grammar import CFG, Choice, Constraint, JsonSchema, Regex
from ..tokenizer.parsers import ToolFormat
from .calls import call_grammar, writes_messages
from .work import OutputFormat, Work

__all__ = ["constraint_of", "enforces_calls"]


def constraint_of(work: Work, tokenizer: Any, prompt: Sequence[int], calls_as: ToolFormat | None) -> Constraint | None:
    """The constraint of the answer to `prompt`, or None when it may be anything; `calls_as` is how calls are written.

    Raises:
        GrammarError: a schema, pattern or grammar is malformed or cannot be enforced.
        UnsupportedError: the combination cannot work.
    """
    calls = work.tools and work.tool_choice.mode != "none"
    forced = work.tool_choice.mode in ("required", "named")
    if forced and not calls:
        raise RequestError("tool_choice asks for a call, but there are no tools.")
    if calls and work.output.kind not in ("text", "json_object", "json_schema"):
        raise UnsupportedError(f"Output of the kind {work.output.kind!r} cannot be combined with tools.")
    if enforces_calls(work):
        grammar = CFG(call_grammar(work, tokenizer, calls_as))
        if writes_messages(calls_as):  # reasoning is part of the grammar
            return answer_constraint(grammar, tokenizer, prompt, after_thinking=False)
        return _constraint(grammar, work, tokenizer, prompt)
    spec = _spec(work.output)
    if spec is None:
        return None
    try:
        return _constraint(spec, work, tokenizer, prompt)
    except GrammarError:
        if work.output.kind != "json_schema" or work.output.strict:
            raise
    return _constraint(JsonSchema({"type": "object"}), work, tokenizer, prompt)


def enforces_calls(work: Work) -> bool:
    """Whether the calls of the answer are held to a grammar."""
    if not work.tools or work.tool_choice.mode == "none":
        return False
    forced = work.tool_choice.mode != "auto"
    return forced or work.output.kind != "text" or any(tool.strict for tool in work.tools)


def _constraint(spec: Any, work: Work, tokenizer: Any, prompt: Sequence[int]) -> Constraint:
    thinks = work.messages is not None and work.thinking.enabled is not False
    return answer_constraint(spec, tokenizer, prompt, after_thinking=None if thinks else False)


def _spec(output: OutputFormat) -> Any:
    match output.kind:
        case "text":
            return None
        case "json_object":
            return JsonSchema({"type": "object"})
        case "json_schema":
            return JsonSchema(output.value, closed=output.strict)
        case "regex":
            return Regex(output.value)
        case "choice":
            return Choice(output.value)
        case "grammar":
            return CFG(output.value)
