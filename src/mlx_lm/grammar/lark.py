"""Alternatives of texts, patterns and JSON as one llguidance grammar; Lark and EBNF texts as llguidance reads them.

Contract: functions give llguidance's own form (JSON text), equal for equal input, so that it can key a cache.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_lm.errors import GrammarError
from mlx_lm.grammar.lark_expand import expand_lark
from mlx_lm.grammar.lark_syntax import NotPlainLark
from mlx_lm.grammar.patterns import lark_regex, lark_string

__all__ = ["Alternative", "JsonPart", "PatternPart", "TextPart", "cfg_grammar", "grammar_of"]

MAX_GRAMMAR_CHARACTERS = 500_000
# One space, or one line break with an indentation: what people and models write. A run of blanks would not end.
WHITESPACE = r" |\r?\n(?: {0,32}|\t{0,8})"
_PRIORITY = re.compile(r"^(\s*[?!]*[A-Za-z_][A-Za-z0-9_]*)\.-?[0-9]+(?=\s*(?:\{[^}]*\})?\s*:)", re.MULTILINE)


@dataclass(frozen=True)
class TextPart:
    """Exactly these characters."""

    text: str


@dataclass(frozen=True)
class PatternPart:
    """What a pattern in llguidance's syntax matches as a whole."""

    pattern: str


@dataclass(frozen=True)
class JsonPart:
    """JSON of a prepared schema."""

    schema: Any
    compact: bool = False


Alternative = TextPart | PatternPart | JsonPart


def grammar_of(alternatives: Sequence[Alternative]) -> str:
    """The grammar of any one of the alternatives."""
    from llguidance import LLMatcher

    if len(alternatives) == 1 and isinstance(alternatives[0], JsonPart):
        part = alternatives[0]
        return LLMatcher.grammar_from_json_schema(json.dumps(part.schema), overrides=_options(part.compact))
    rules, names = [], []
    texts = [lark_string(part.text) for part in alternatives if isinstance(part, TextPart)]
    if texts:
        names.append("text")
        rules.append("text: " + " | ".join(dict.fromkeys(texts)))
    for i, part in enumerate(alternatives):
        if isinstance(part, PatternPart):
            names.append(f"p{i}")
            rules.append(f"p{i}: {lark_regex(part.pattern)}")
        elif isinstance(part, JsonPart):
            names.append(f"p{i}")
            rules.append(f"p{i}: %json {json.dumps({**part.schema, 'x-guidance': _options(part.compact)})}")
    if not names:
        raise GrammarError("There is nothing to choose from.")
    return LLMatcher.grammar_from_lark("\n".join([f"start: {' | '.join(names)}", *rules]))


def _options(compact: bool) -> Any:
    """How JSON is written. `\\u` escapes are left out: a name could come twice in two spellings."""
    options: dict[str, Any] = {"lenient": False, "coerce_one_of": False, "json_allowed_escapes": 'nrbtf\\"'}
    return options | ({"whitespace_flexible": False} if compact else {"whitespace_pattern": WHITESPACE})


def cfg_grammar(text: str, start: str = "start", folder: str | os.PathLike[str] | None = None) -> str:
    """A context-free grammar in Lark's syntax, or in EBNF/GBNF when it has `::=`.

    Priorities are dropped: they choose between parses, not what is accepted. `folder` is where `%import .name` finds
    files. What is not Lark's own syntax goes to llguidance as it is. Raises GrammarError.
    """
    from llguidance import LLMatcher, grammar_from

    if not isinstance(text, str) or not text.strip():
        raise GrammarError("The grammar is empty.")
    if len(text) > MAX_GRAMMAR_CHARACTERS:
        raise GrammarError(f"The grammar has {len(text):,} characters; at most {MAX_GRAMMAR_CHARACTERS:,} are taken.")
    if "::=" in re.sub(r'"(?:[^"\\\n]|\\.)*"', '""', text):
        if start not in ("start", "root"):
            text = re.sub(r"(?m)^root(?=\s*::=)", "root-before", text) + f"\nroot ::= {start}\n"
        try:
            return grammar_from("ebnf", text)
        except ValueError as error:
            raise GrammarError(f"The EBNF grammar is malformed: {error}") from error
        except (RecursionError, IndexError) as error:
            raise GrammarError("The EBNF grammar is malformed or nested too deeply.") from error
    try:
        expanded = expand_lark(text, start, None if folder is None else Path(folder))
    except NotPlainLark:
        pass
    else:
        return LLMatcher.grammar_from_lark(expanded)
    text = _PRIORITY.sub(r"\1", text)
    if start != "start":
        text += f"\nstart: {start}\n"
    return LLMatcher.grammar_from_lark(text)
