"""The rules of one grammar in llguidance's Lark syntax, while it is put together.

Contract: what comes from strangers (names, constants, closing texts) only ever appears as quoted text. A piece of text
that is a special token for the grammar's vocabulary is written as that token: such tokens are never part of free text,
so free text before one needs no care; before other text it ends where that text first comes.

This module does not know tools or formats.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ...errors import GrammarError
from ...grammar.compiler import compiler_of
from ...grammar.lark import MAX_GRAMMAR_CHARACTERS, WHITESPACE
from ...grammar.patterns import lark_string
from ...grammar.vocabulary import end_tokens

__all__ = ["ANY_TEXT", "Rules"]

ANY_TEXT = "/(?s:.)*/"
# As the grammar room writes JSON.
_JSON = MappingProxyType(
    {
        "lenient": False,
        "coerce_one_of": False,
        "json_allowed_escapes": 'nrbtf\\"',
        "whitespace_pattern": WHITESPACE,
    }
)


class Rules:
    """Collects rules; the methods give expressions to be used in others."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = compiler_of(tokenizer).vocabulary
        self._ends = end_tokens(tokenizer)
        self._lines: list[tuple[str, str]] = []
        self._names: dict[str, str] = {}  # by body, or by what a reserved rule is of
        self._size = 0
        self._pieces: dict[str, list[str | int]] = {}

    def grammar(self, start: str) -> str:
        """The whole grammar."""
        lines = [f"{name}: {body}" for name, body in self._lines]
        return "\n".join(["%llguidance {}", f"start: {start}", *lines])

    def rule(self, body: str) -> str:
        """A rule of this body."""
        return self._define(body, "r")

    def terminal(self, body: str) -> str:
        """A terminal of this body."""
        return self._define(body, "T")

    def _define(self, body: str, kind: str) -> str:
        if body not in self._names:
            self._names[body] = f"{kind}{len(self._names)}"
            self._line(self._names[body], body)
        return self._names[body]

    def _line(self, name: str, body: str) -> None:
        self._size += len(body)
        if self._size > MAX_GRAMMAR_CHARACTERS:
            raise GrammarError("The tools' schemas are too large for a grammar of their calls.")
        self._lines.append((name, body))

    def recursive(self, key: str, body: Callable[[], str]) -> str:
        """The rule of `key`, whose body may ask for it again."""
        key = f"\0{key}"  # no body begins so
        if key not in self._names:
            self._names[key] = name = f"r{len(self._names)}"
            self._line(name, body())
        return self._names[key]

    def json(self, schema: Mapping[str, Any]) -> str:
        """JSON of a prepared schema."""
        return self.rule(f"%json {json.dumps({**schema, 'x-guidance': dict(_JSON)})}")

    def pieces(self, text: str) -> list[str | int]:
        """A text cut into plain texts and the ids of special tokens."""
        if text not in self._pieces:
            marks = self._marks(text)
            parts = re.split(f"({'|'.join(map(re.escape, marks))})", text) if marks else [text]
            self._pieces[text] = [marks.get(part, part) for part in parts if part]
        return self._pieces[text]

    def _marks(self, text: str) -> dict[str, int]:
        ids = self._tokenizer.encode(text, add_special_tokens=False) if text else []
        special = [one for one in ids if self._vocabulary.is_special_token(one)]
        if len(ids) == 1 and special:
            return {text: ids[0]}
        names = {self._tokenizer.convert_ids_to_tokens(one): one for one in special}
        return {name: one for name, one in names.items() if isinstance(name, str) and name in text}

    def text(self, text: str) -> str:
        """Exactly this text."""
        return self._written(self.pieces(text))

    def _written(self, pieces: Sequence[str | int]) -> str:
        return " ".join(f"<[{one}]>" if isinstance(one, int) else lark_string(one) for one in pieces)

    def ending(self, text: str) -> str:
        """This text or nothing at the end of the answer; nothing where a token in it ends generation."""
        return f"({self.text(text)})?" if text and self.can_come(text) else ""

    def can_come(self, text: str) -> bool:
        """Whether the text can be followed by more: no token in it ends generation."""
        return not any(one in self._ends for one in self.pieces(text) if isinstance(one, int))

    def is_plain(self, text: str) -> bool:
        """Whether no part of the text is a special token."""
        return all(isinstance(one, str) for one in self.pieces(text))

    def until(self, content: str, closing: str, without: Sequence[str] = ()) -> str:
        """Text of the terminal expression `content`, then `closing`; the first `closing` there is ends it.

        The content has none of the texts in `without`.
        """
        pieces = self.pieces(closing)
        count = next((i for i, one in enumerate(pieces) if isinstance(one, int)), len(pieces))
        besides = () if any(one in closing for one in without) else (closing,)  # without a part of it is enough
        avoid = [one for one in (*without, *besides) if self.is_plain(one)]
        body = f"({content}{self.lacks(*avoid)})"
        if count:
            body = f"({body} {lark_string(str(pieces[0]))})"
        return f"{self.terminal(body)} {self._written(pieces[count:])}"

    def lacks(self, *texts: str) -> str:
        """What a terminal's expression goes on with so that its texts have none of these in them."""
        written = " | ".join(map(lark_string, dict.fromkeys(texts)))
        return f" & ~({ANY_TEXT} ({written}) {ANY_TEXT})" if texts else ""
