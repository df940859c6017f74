"""Specs and types to grammars for one tokenizer, and the text back to a value.

Contract: `compile_constraint(spec, tokenizer)` gives a `CompiledGrammar`, whose `start` gives a fresh `Constraint`.
The vocabulary and the last grammars are kept with the tokenizer. Definitions may come from strangers: their size is
limited, the compiler's work is bounded, and what cannot be enforced is refused with a GrammarError that names it.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import OrderedDict
from typing import Any

from mlx_lm.errors import GrammarError, IncompleteOutputError
from mlx_lm.grammar.lark import Alternative, JsonPart, PatternPart, TextPart, cfg_grammar, grammar_of
from mlx_lm.grammar.matcher import CompiledGrammar, first_line
from mlx_lm.grammar.patterns import python_regex
from mlx_lm.grammar.python_types import members_of, read
from mlx_lm.grammar.schema import prepare_schema
from mlx_lm.grammar.specs import CFG, Choice, JsonSchema, Regex
from mlx_lm.grammar.vocabulary import build_vocabulary, end_tokens

__all__ = ["GrammarCompiler", "check_output_type", "compile_constraint", "compiler_of", "grammar_text", "parse_output"]

_KEPT = 64
_MAX_PATTERN = 100_000
_MAX_CHOICES = 20_000


def grammar_text(spec: Any) -> str:
    """The grammar of a spec, a Python type or a dict (a JSON Schema), in llguidance's form. Raises GrammarError."""
    if isinstance(spec, CFG):
        return cfg_grammar(spec.grammar, spec.start, spec.folder)
    return grammar_of(_alternatives(spec))


def _alternatives(spec: Any) -> list[Alternative]:
    if isinstance(spec, JsonSchema):
        return [JsonPart(prepare_schema(spec.schema, closed=spec.closed), spec.compact)]
    if isinstance(spec, dict):
        return [JsonPart(prepare_schema(spec))]
    if isinstance(spec, Regex):
        if not isinstance(spec.pattern, str) or len(spec.pattern) > _MAX_PATTERN:
            raise GrammarError(f"A regular expression must be a text of at most {_MAX_PATTERN:,} characters.")
        return [PatternPart(python_regex(spec.pattern))]
    if isinstance(spec, Choice):
        if not spec.options or not all(isinstance(option, str) for option in spec.options):
            raise GrammarError("A choice must have at least one option, and all of them must be texts.")
        if len(spec.options) > _MAX_CHOICES:
            raise GrammarError(f"A choice can have at most {_MAX_CHOICES:,} options, not {len(spec.options):,}.")
        return [TextPart(option) for option in spec.options]
    if isinstance(spec, str):
        raise GrammarError("A text is no output type: say what it is with Regex, CFG, JsonSchema or Choice.")
    return [member.part for member in members_of(spec)]


def parse_output(text: str, output_type: Any) -> Any:
    """The value of generated text: for a type its value, for a JSON Schema what JSON holds, else the text itself.

    Raises IncompleteOutputError for text that was cut off; it carries the text.
    """
    if isinstance(output_type, Regex | Choice | CFG):
        return text
    if isinstance(output_type, JsonSchema | dict):
        try:
            return json.loads(text)
        except ValueError as error:
            raise IncompleteOutputError(text, "it is not whole JSON") from error
    return read(text, output_type)


class GrammarCompiler:
    """Compiles for one tokenizer; safe to use from several threads."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._vocabulary: Any = None
        self._grammars: OrderedDict[str, Any] = OrderedDict()
        self._derived: dict[str, Any] = {}

    @property
    def vocabulary(self) -> Any:
        """The `llguidance.LLTokenizer`, built on first use."""
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = build_vocabulary(self._tokenizer)
            return self._vocabulary

    def compile(self, spec: Any, ends: frozenset[int]) -> CompiledGrammar:
        """The grammar of a spec; `ends` are the ids that end generation. Raises GrammarError."""
        text = grammar_text(spec)
        vocabulary = self.vocabulary
        with self._lock:
            matcher = self._grammars.get(text)
            if matcher is None:
                matcher = _matcher(vocabulary, text)
                self._grammars[text] = matcher
                if len(self._grammars) > _KEPT:
                    self._grammars.popitem(last=False)
            self._grammars.move_to_end(text)
        return CompiledGrammar(matcher, vocabulary, ends, text, self._derived)


def _matcher(vocabulary: Any, text: str) -> Any:
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(verbose_errors=False)
    matcher = LLMatcher(vocabulary, text, log_level=0, limits=limits)
    if not matcher.is_error() and not matcher.is_stopped():
        matcher.compute_bitmask()  # the first mask builds tables; it also shows grammars that accept nothing
    if matcher.is_error():
        raise GrammarError(_explain(matcher.get_error()))
    return matcher


def _explain(message: str) -> str:
    """An llguidance message in our words, where it is a known one."""
    line = first_line(message)
    if "Unimplemented keys" in line:
        keys = line.split("[", 1)[-1].split("]", 1)[0].replace('"', "'")
        return f"The JSON Schema keyword {keys} is not supported."
    if "oneOf constraints are not supported" in line:
        return "The JSON Schema keyword 'oneOf' is supported only where no value can match two of the schemas."
    if "is not present in a registry" in line:
        return f"The JSON Schema keyword '$ref' is supported only inside the schema: {line}"
    if "NoExtension" in line:
        return "The grammar accepts nothing."
    return f"The grammar cannot be used: {line}"


def check_output_type(spec: Any) -> None:
    """Raises GrammarError for a spec or type that no tokenizer could be held to; needs no tokenizer."""
    from llguidance import LLMatcher

    message = LLMatcher.validate_grammar(grammar_text(spec))
    if message and not message.startswith("WARNING"):
        raise GrammarError(_explain(message))


def compiler_of(tokenizer: Any) -> GrammarCompiler:
    """The compiler that is kept with a tokenizer; made on first use."""
    owner = getattr(tokenizer, "_inner", tokenizer)
    compiler = getattr(owner, "_grammar_compiler", None)
    if not isinstance(compiler, GrammarCompiler):
        compiler = GrammarCompiler(tokenizer)
        with contextlib.suppress(AttributeError):  # an object with slots keeps nothing
            owner._grammar_compiler = compiler
    return compiler


def compile_constraint(spec: Any, tokenizer: Any, *, end_ids: frozenset[int] | None = None) -> CompiledGrammar:
    """The grammar of `spec` for `tokenizer`; `start` on it gives a `Constraint`.

    Args:
        spec: JsonSchema, Regex, Choice, CFG, a dict (JSON Schema), a Python type, or a function.
        end_ids: the ids that end generation; None takes those of the tokenizer.

    Raises:
        GrammarError: the spec is malformed, too large, or asks for what cannot be enforced.
        TokenizerError: the tokenizer has no vocabulary or no end token.
    """
    ends = end_tokens(tokenizer) if end_ids is None else end_ids
    return compiler_of(tokenizer).compile(spec, ends)
